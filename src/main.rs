//! The `poolkeeper` command: parses, wires, runs; no logic.

fn main() -> std::process::ExitCode {
    poolkeeper::cli::main()
}
