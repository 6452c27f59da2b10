//! `tidegate-load report`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use tidegate_load::report;

#[derive(clap::Args)]
pub struct ReportArgs {
    /// A result.json.
    result: PathBuf,
    /// Where the page goes [default: report.html beside the result].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub fn run(args: &ReportArgs) -> anyhow::Result<ExitCode> {
    let file = &args.result;
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let result = report::from_json(&text).with_context(|| format!("{}", file.display()))?;
    let page = args.out.clone().unwrap_or_else(|| file.with_file_name("report.html"));
    std::fs::write(&page, report::html(&result)).with_context(|| format!("cannot write {}", page.display()))?;
    println!("written: {}", page.display());
    Ok(ExitCode::SUCCESS)
}
