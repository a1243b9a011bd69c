//! `poolkeeper check`.

use std::io::{self, Read};
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::api::document::MAX_BYTES;
use crate::api::resolve::{self, DbPoolPolicy, Problem, Resolved};
use crate::sidecar::source::{Finding, files};

/// Check policies: every problem with its path.
///
/// Reads files, directories (their .yaml, .yml and .json files) and, for -, the standard input; a file may hold several
/// documents. What one argument names is checked as one sidecar would serve it. The exit status is 0 if all is right,
/// 1 if any policy has a problem and 2 if something cannot be read.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Files or directories of policies, - for the standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    /// Print the policies with every default filled in.
    #[arg(long)]
    resolved: bool,
    /// How to print it.
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    output: Output,
}

const EXAMPLES: &str = "\
Examples:
  poolkeeper check orders.yaml
  poolkeeper check deploy/policies/ other.yaml
  poolkeeper check --resolved orders.yaml       what the preset and the defaults amount to
  kubectl get dbpool orders -o yaml | poolkeeper check -";

/// How to print it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// One problem a line; resolved policies as YAML.
    Text,
    /// One JSON object.
    Json,
}

/// What was found in all arguments.
#[derive(Debug, Default)]
struct Report {
    policies: Vec<(String, Resolved)>,
    findings: Vec<Finding>,
    unreadable: Vec<String>,
}

/// Runs the command.
pub fn run(args: &Args) -> ExitCode {
    let mut report = Report::default();
    for file in &args.files {
        report.argument(file);
    }
    for line in &report.unreadable {
        eprintln!("{line}");
    }
    let text = match args.output {
        Output::Text => report.text(args.resolved),
        Output::Json => report.json(args.resolved),
    };
    let printed = super::print(&text);
    match (report.unreadable.is_empty(), report.findings.is_empty()) {
        (true, true) => printed,
        (true, false) => ExitCode::from(1),
        (false, _) => ExitCode::from(2),
    }
}

impl Report {
    /// Checks what one argument names: as one sidecar would serve it.
    fn argument(&mut self, file: &str) {
        let (policies, findings) = (self.policies.len(), self.findings.len());
        if file == "-" {
            let mut text = String::new();
            match io::stdin().lock().take(MAX_BYTES as u64).read_to_string(&mut text) {
                Ok(_) => self.text_of("-", &text),
                Err(error) => self.unreadable.push(format!("-: cannot be read: {error}")),
            }
        } else {
            self.path(Path::new(file));
        }
        let found = &self.policies[policies..];
        let conflicts = resolve::conflicts(&found.iter().map(|(_, policy)| policy).collect::<Vec<_>>());
        let finding = |(index, problem): (usize, Problem)| Finding::new(&found[index].0, problem);
        let conflicts: Vec<Finding> = conflicts.into_iter().map(finding).collect();
        self.findings.extend(conflicts);
        self.findings[findings..].sort();
    }

    fn path(&mut self, path: &Path) {
        let unreadable = |path: &Path, error: io::Error| format!("{}: cannot be read: {error}", path.display());
        let files = match path.metadata().and_then(|_| files::list(path)) {
            Ok(files) => files,
            Err(error) => return self.unreadable.push(unreadable(path, error)),
        };
        if files.is_empty() {
            let problem = Problem::new("", "holds no file that ends in .yaml, .yml or .json");
            self.findings.push(Finding::new(path.display().to_string(), problem));
        }
        for file in files {
            match files::read(&file, MAX_BYTES).map(String::from_utf8) {
                Ok(Ok(text)) => self.text_of(&file.display().to_string(), &text),
                Ok(Err(_)) => self.unreadable.push(format!("{}: cannot be read: no text (UTF-8)", file.display())),
                Err(error) => self.unreadable.push(unreadable(&file, error)),
            }
        }
    }

    fn text_of(&mut self, file: &str, text: &str) {
        for (file, policy) in files::in_text(file, text) {
            match policy {
                Ok(policy) => self.policies.push((file, policy)),
                Err(problems) => {
                    self.findings.extend(problems.into_iter().map(|problem| Finding::new(&file, problem)));
                }
            }
        }
    }

    fn text(&self, resolved: bool) -> String {
        if !self.findings.is_empty() {
            return self.findings.iter().map(|finding| format!("{finding}\n")).collect();
        }
        if resolved {
            return self.policies.iter().map(|(file, policy)| as_yaml(file, policy)).collect::<Vec<_>>().join("---\n");
        }
        match self.policies.len() {
            _ if !self.unreadable.is_empty() => String::new(),
            1 => "1 policy, no problem\n".into(),
            n => format!("{n} policies, no problem\n"),
        }
    }

    fn json(&self, resolved: bool) -> String {
        let problem = |finding: &Finding| json!({ "file": finding.file, "path": finding.problem.path, "message": finding.problem.message });
        let mut value = json!({
            "policies": self.policies.len(),
            "problems": self.findings.iter().map(problem).collect::<Value>(),
            "unreadable": self.unreadable,
        });
        if resolved {
            let policy = |(file, policy): &(String, Resolved)| json!({ "file": file, "revision": policy.revision, "policy": document(policy) });
            value["resolved"] = self.policies.iter().map(policy).collect();
        }
        format!("{value:#}\n")
    }
}

/// A policy with every default filled in.
fn document(policy: &Resolved) -> DbPoolPolicy {
    let mut document = DbPoolPolicy::new(&policy.name, policy.effective.clone());
    document.metadata.namespace = Some(policy.namespace.clone());
    document
}

fn as_yaml(file: &str, policy: &Resolved) -> String {
    let yaml = serde_yaml::to_string(&document(policy)).unwrap_or_default();
    format!("# {file}, revision {}\n{yaml}", policy.revision)
}
