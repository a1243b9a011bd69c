//! How a client connects and logs in.

use super::message::ServerError;
use super::socket::{Address, Socket};
use super::wire::Client;
use super::{PATIENCE, fe, login};
use rustls::pki_types::ServerName;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

/// TLS as a client wants it.
#[derive(Clone)]
pub enum Tls {
    /// None is asked for.
    Off,
    /// SSLRequest first.
    Request(Arc<rustls::ClientConfig>),
    /// The handshake at once (PostgreSQL 17).
    Direct(Arc<rustls::ClientConfig>),
}

/// What a client says about SCRAM's channel binding (the gs2 header of RFC 5802).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// As libpq: bind when it is offered, `y` over TLS when it is not, else `n`.
    Auto,
    /// `n`: the client can't, whatever is offered.
    Never,
    /// `y`: the client could, but believes that the server can't.
    Claim,
}

/// How to connect and log in; every part can be changed.
#[derive(Clone)]
pub struct Connect {
    /// Where.
    pub address: Address,
    /// The user's name and password.
    pub user: String,
    /// Used when the server asks for one.
    pub password: String,
    /// The database's name.
    pub database: String,
    /// Further startup parameters.
    pub parameters: Vec<(String, String)>,
    /// Protocol 3.`minor`.
    pub minor: u16,
    /// TLS.
    pub tls: Tls,
    /// What the client says about channel binding.
    pub binding: Binding,
}

impl Connect {
    fn new(address: Address) -> Self {
        let (user, password, database) = (super::pg::USER.to_owned(), super::pg::PASSWORD.to_owned(), String::new());
        Self { address, user, password, database, parameters: vec![], minor: 0, tls: Tls::Off, binding: Binding::Auto }
    }

    /// To a port of 127.0.0.1.
    pub fn tcp(port: u16) -> Self {
        Self::new(Address::Tcp(port))
    }

    /// To a unix socket.
    pub fn unix(path: &Path) -> Self {
        Self::new(Address::Unix(path.to_owned()))
    }

    /// As this user.
    pub fn user(mut self, user: &str) -> Self {
        user.clone_into(&mut self.user);
        self
    }

    /// With this password.
    pub fn password(mut self, password: &str) -> Self {
        password.clone_into(&mut self.password);
        self
    }

    /// To this database.
    pub fn database(mut self, database: &str) -> Self {
        database.clone_into(&mut self.database);
        self
    }

    /// With one more startup parameter.
    pub fn param(mut self, name: &str, value: &str) -> Self {
        self.parameters.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Asking for protocol 3.`minor`.
    pub fn minor(mut self, minor: u16) -> Self {
        self.minor = minor;
        self
    }

    /// With TLS.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = tls;
        self
    }

    /// Saying this about channel binding.
    pub fn binding(mut self, binding: Binding) -> Self {
        self.binding = binding;
        self
    }

    /// The startup packet.
    pub fn startup(&self) -> Vec<u8> {
        let mut parameters = vec![("user", self.user.as_str())];
        if !self.database.is_empty() {
            parameters.push(("database", &self.database));
        }
        parameters.extend(self.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        fe::startup(self.minor, &parameters)
    }

    /// A socket that has said nothing yet (after TLS, when that was asked for).
    pub fn raw(&self) -> io::Result<Client> {
        let socket = Socket::open(&self.address)?;
        socket.set_timeout(PATIENCE)?;
        let socket = match &self.tls {
            Tls::Off => socket,
            Tls::Request(config) => secure(ask_for_tls(socket)?, config),
            Tls::Direct(config) => {
                let mut config = rustls::ClientConfig::clone(config);
                config.alpn_protocols = vec![b"postgresql".to_vec()];
                secure(socket, &Arc::new(config))
            }
        };
        Ok(Client::new(socket, self.address.clone()))
    }

    /// Connects and logs in; an ErrorResponse on the way is the error.
    pub fn open(&self) -> Result<Client, ServerError> {
        let broken = |error: io::Error| ServerError {
            severity: "FATAL".into(),
            code: "-----".into(),
            message: format!("{:?}: {error}", self.address),
        };
        let mut client = self.raw().map_err(broken)?;
        client.write(&self.startup()).map_err(broken)?;
        login::run(&mut client, self)?;
        Ok(client)
    }
}

fn ask_for_tls(mut socket: Socket) -> io::Result<Socket> {
    socket.write_all(&fe::ssl_request())?;
    let mut answer = [0];
    socket.read_exact(&mut answer)?;
    if answer != *b"S" {
        return Err(io::Error::other(format!("TLS refused: {}", char::from(answer[0]))));
    }
    Ok(socket)
}

fn secure(socket: Socket, config: &Arc<rustls::ClientConfig>) -> Socket {
    let Socket::Tcp(stream) = socket else { panic!("TLS runs over TCP") };
    let name = ServerName::try_from("localhost").unwrap();
    let connection = rustls::ClientConnection::new(Arc::clone(config), name).unwrap();
    Socket::Tls(Box::new(rustls::StreamOwned::new(connection, stream)))
}
