//! The `tidegate` binary: subcommands only. What they do lives in the gateway, control and auth crates.

#![forbid(unsafe_code)]

mod config;
mod dev;
mod dev_certificate;
mod node;
mod operations;
mod push;
mod token;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tidegate_gateway::IoChoice;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(name = "tidegate", version, about = "An edge connection gateway with a thin control plane")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Gateway and control in one process, with development auth, on loopback.
    Dev(dev::DevArgs),
    /// A gateway.
    Gateway(node::GatewayArgs),
    /// A control node.
    Control(node::ControlArgs),
    /// Prints a token for a user.
    Token(token::TokenArgs),
    /// Pushes a message through the API.
    Push(push::PushArgs),
    /// Names every problem of a configuration file; exit status 2 if there is one.
    CheckConfig { file: PathBuf },
    /// Prints an annotated configuration file with every default.
    DefaultConfig,
    /// Topics of a cluster's bus.
    #[command(subcommand)]
    Topics(operations::Topics),
    /// Records of a cluster's bus that were given up.
    #[command(subcommand)]
    DeadLetter(operations::DeadLetter),
    /// Places of a cluster's consumer groups.
    #[command(subcommand)]
    Offsets(operations::Offsets),
    /// Asks the node of this machine that listens there to drain and end, as SIGTERM does.
    Drain { address: SocketAddr },
    /// Checks the log of a data folder without changing it; exit status 1 if it is damaged.
    VerifyLog(DataDir),
}

/// The data folder of every command that has one.
#[derive(Args, Clone)]
pub struct DataDir {
    #[arg(long, env = "TIDEGATE_DATA_DIR", default_value = "./tidegate-data")]
    pub data_dir: PathBuf,
}

/// Listeners; given here they win over the configuration file.
#[derive(Args, Clone, Default)]
pub struct Listeners {
    /// Clients: WebSocket [default: 127.0.0.1:8080].
    #[arg(long, env = "TIDEGATE_CLIENT_ADDR")]
    pub client_addr: Option<SocketAddr>,
    /// Clients over TLS: wss:// (no default; `dev --tls`: 127.0.0.1:8443).
    #[arg(long, env = "TIDEGATE_TLS_ADDR")]
    pub tls_addr: Option<SocketAddr>,
    /// REST, example page, metrics [default: 127.0.0.1:8090].
    #[arg(long, env = "TIDEGATE_HTTP_ADDR")]
    pub http_addr: Option<SocketAddr>,
    /// gRPC [default: 127.0.0.1:9090].
    #[arg(long, env = "TIDEGATE_GRPC_ADDR")]
    pub grpc_addr: Option<SocketAddr>,
    /// Health and metrics of the gateway [default: 127.0.0.1:8081].
    #[arg(long, env = "TIDEGATE_ADMIN_ADDR")]
    pub admin_addr: Option<SocketAddr>,
}

/// How a gateway serves connections; given here it wins over the configuration file.
#[derive(Args, Clone, Default)]
pub struct Engine {
    /// auto, uring or epoll; auto is io_uring where the host allows it [default: auto].
    #[arg(long, env = "TIDEGATE_IO", value_name = "DRIVER")]
    pub io: Option<IoChoice>,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Dev(args) => dev::run(args),
        Command::Gateway(args) => node::run_gateway(args),
        Command::Control(args) => node::run_control(args),
        Command::Token(args) => token::run(&args),
        Command::Push(args) => push::run(args),
        Command::CheckConfig { file } => return config::check(&file),
        Command::DefaultConfig => {
            print!("{}", config::default_text());
            Ok(())
        }
        Command::Topics(verb) => operations::topics(&verb),
        Command::DeadLetter(verb) => operations::dead_letters(&verb),
        Command::Offsets(verb) => operations::offsets(&verb),
        Command::Drain { address } => operations::drain(address),
        Command::VerifyLog(args) => config::verify_log(&args.data_dir),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tidegate: {error:#}");
            ExitCode::FAILURE
        }
    }
}
