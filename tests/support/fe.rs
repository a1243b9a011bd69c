//! Frontend messages as bytes, one function each: what a test sends. Written out by hand, so that a
//! test can also send what no driver would.

/// One message: its tag, the length, the body.
pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    out.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    out.extend_from_slice(body);
    out
}

/// Several messages in one write.
pub fn all(messages: &[Vec<u8>]) -> Vec<u8> {
    messages.concat()
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

fn named(tag: u8, kind: u8, name: &str) -> Vec<u8> {
    let mut body = vec![kind];
    text(&mut body, name);
    message(tag, &body)
}

/// Query: the simple protocol.
pub fn query(sql: &str) -> Vec<u8> {
    let mut body = vec![];
    text(&mut body, sql);
    message(b'Q', &body)
}

/// Parse with parameter type OIDs (0 or none: the server finds out).
pub fn parse(name: &str, sql: &str, types: &[u32]) -> Vec<u8> {
    let mut body = vec![];
    text(&mut body, name);
    text(&mut body, sql);
    body.extend_from_slice(&u16::try_from(types.len()).unwrap().to_be_bytes());
    types.iter().for_each(|oid| body.extend_from_slice(&oid.to_be_bytes()));
    message(b'P', &body)
}

/// Bind with text parameters and text results.
pub fn bind(portal: &str, statement: &str, parameters: &[&str]) -> Vec<u8> {
    let values: Vec<_> = parameters.iter().map(|value| Some(value.as_bytes())).collect();
    bind_raw(portal, statement, &values)
}

/// Bind with any bytes or NULL as parameters.
pub fn bind_raw(portal: &str, statement: &str, parameters: &[Option<&[u8]>]) -> Vec<u8> {
    let mut body = vec![];
    text(&mut body, portal);
    text(&mut body, statement);
    body.extend_from_slice(&0u16.to_be_bytes());
    body.extend_from_slice(&u16::try_from(parameters.len()).unwrap().to_be_bytes());
    for value in parameters {
        match value {
            None => body.extend_from_slice(&(-1i32).to_be_bytes()),
            Some(value) => {
                body.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
                body.extend_from_slice(value);
            }
        }
    }
    body.extend_from_slice(&0u16.to_be_bytes());
    message(b'B', &body)
}

/// Describe a statement.
pub fn describe(statement: &str) -> Vec<u8> {
    named(b'D', b'S', statement)
}

/// Describe a portal.
pub fn describe_portal(portal: &str) -> Vec<u8> {
    named(b'D', b'P', portal)
}

/// Execute, all rows.
pub fn execute(portal: &str) -> Vec<u8> {
    execute_some(portal, 0)
}

/// Execute, at most so many rows (0 = all).
pub fn execute_some(portal: &str, rows: u32) -> Vec<u8> {
    let mut body = vec![];
    text(&mut body, portal);
    body.extend_from_slice(&rows.to_be_bytes());
    message(b'E', &body)
}

/// Close a statement.
pub fn close(statement: &str) -> Vec<u8> {
    named(b'C', b'S', statement)
}

/// Close a portal.
pub fn close_portal(portal: &str) -> Vec<u8> {
    named(b'C', b'P', portal)
}

/// Sync.
pub fn sync() -> Vec<u8> {
    message(b'S', &[])
}

/// Flush.
pub fn flush() -> Vec<u8> {
    message(b'H', &[])
}

/// Terminate.
pub fn terminate() -> Vec<u8> {
    message(b'X', &[])
}

/// CopyData.
pub fn copy_data(data: &[u8]) -> Vec<u8> {
    message(b'd', data)
}

/// CopyDone.
pub fn copy_done() -> Vec<u8> {
    message(b'c', &[])
}

/// CopyFail with the client's reason.
pub fn copy_fail(reason: &str) -> Vec<u8> {
    let mut body = vec![];
    text(&mut body, reason);
    message(b'f', &body)
}

/// FunctionCall with text arguments and a text result.
pub fn function_call(oid: u32, arguments: &[&str]) -> Vec<u8> {
    let mut body = oid.to_be_bytes().to_vec();
    body.extend_from_slice(&0u16.to_be_bytes());
    body.extend_from_slice(&u16::try_from(arguments.len()).unwrap().to_be_bytes());
    for argument in arguments {
        body.extend_from_slice(&u32::try_from(argument.len()).unwrap().to_be_bytes());
        body.extend_from_slice(argument.as_bytes());
    }
    body.extend_from_slice(&0u16.to_be_bytes());
    message(b'F', &body)
}

/// PasswordMessage, SASLInitialResponse and SASLResponse share one tag.
pub fn password(body: &[u8]) -> Vec<u8> {
    message(b'p', body)
}

/// Parse, Bind, Describe, Execute and Sync of one unnamed statement: what most drivers send.
pub fn extended(sql: &str, parameters: &[&str]) -> Vec<u8> {
    all(&[parse("", sql, &[]), bind("", "", parameters), describe_portal(""), execute(""), sync()])
}

/// Bind, Execute and Sync of a statement prepared before.
pub fn run(statement: &str, parameters: &[&str]) -> Vec<u8> {
    all(&[bind("", statement, parameters), execute(""), sync()])
}

/// A packet without a tag: the startup packet and its kin.
pub fn untagged(code: u32, body: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(body.len() + 8).unwrap().to_be_bytes().to_vec();
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(body);
    out
}

/// StartupMessage of protocol 3.`minor`.
pub fn startup(minor: u16, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = vec![];
    for (name, value) in parameters {
        text(&mut body, name);
        text(&mut body, value);
    }
    body.push(0);
    untagged(3 << 16 | u32::from(minor), &body)
}

/// CancelRequest.
pub fn cancel(pid: u32, key: &[u8]) -> Vec<u8> {
    let mut body = pid.to_be_bytes().to_vec();
    body.extend_from_slice(key);
    untagged(80_877_102, &body)
}

/// SSLRequest.
pub fn ssl_request() -> Vec<u8> {
    untagged(80_877_103, &[])
}

/// GSSENCRequest.
pub fn gss_request() -> Vec<u8> {
    untagged(80_877_104, &[])
}
