//! A host that forbids io_uring, made by a seccomp filter as container runtimes have one: its three calls answer EPERM.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use seccompiler::{BackendError, BpfProgram, SeccompAction, SeccompFilter};

const CALLS: [libc::c_long; 3] = [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

#[derive(clap::Args)]
pub struct Args {
    /// The command to run, with its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Debug, thiserror::Error)]
pub enum ForbidError {
    #[error("this machine's architecture has no seccomp filters here")]
    Filter(#[from] BackendError),
    #[error("the filter was not taken")]
    Apply(#[from] seccompiler::Error),
}

/// From now on the calling thread, and what it starts, is refused io_uring. There is no way back.
pub fn forbid() -> Result<(), ForbidError> {
    let rules: BTreeMap<i64, _> = CALLS.into_iter().map(|call| (call, Vec::new())).collect();
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, std::env::consts::ARCH.try_into()?)?;
    let program: BpfProgram = filter.try_into()?;
    seccompiler::apply_filter(&program)?;
    Ok(())
}

/// Becomes the command; returns only if that failed.
pub fn run(args: &Args) -> anyhow::Result<()> {
    forbid()?;
    let (program, rest) = args.command.split_first().expect("clap requires one");
    let error: io::Error = Command::new(program).args(rest).exec();
    Err(anyhow::Error::new(error).context(format!("cannot run {}", program.to_string_lossy())))
}
