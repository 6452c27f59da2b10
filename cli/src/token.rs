//! `tidegate token`: a JWT for a user, signed with HS256.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use tidegate_auth::{Issuer, dev};

use crate::DataDir;

#[derive(clap::Args)]
pub struct TokenArgs {
    #[arg(long)]
    uid: String,
    #[arg(long)]
    device: Option<String>,
    #[arg(long)]
    platform: Option<String>,
    /// Life of the token: a number with s, m, h or d.
    #[arg(long, default_value = "24h", value_parser = duration_s)]
    ttl: u64,
    /// File with the HS256 secret; without it the development key of the data folder signs.
    #[arg(long)]
    key: Option<PathBuf>,
    #[command(flatten)]
    data: DataDir,
}

pub fn run(args: &TokenArgs) -> anyhow::Result<()> {
    let secret = match &args.key {
        Some(file) => std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?,
        None => dev::dev_key(&args.data.data_dir).context("cannot read the development key")?,
    };
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as i64;
    let issuer = Issuer::new(&secret, None)?;
    let token = issuer.issue(&args.uid, args.device.as_deref(), args.platform.as_deref(), now_ms, args.ttl)?;
    println!("{token}");
    Ok(())
}

fn duration_s(text: &str) -> anyhow::Result<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        other => bail!("unknown unit {other:?}; units are s, m, h, d"),
    };
    let number: u64 = digits.parse().context("a number with s, m, h or d")?;
    number.checked_mul(unit).filter(|s| *s > 0 && *s <= 10 * 365 * 86_400).context("between 1 s and 10 years")
}

#[cfg(test)]
mod tests {
    use super::duration_s;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration_s("90").expect("seconds"), 90);
        assert_eq!(duration_s("15m").expect("minutes"), 900);
        assert_eq!(duration_s("24h").expect("hours"), 86_400);
        assert_eq!(duration_s("7d").expect("days"), 604_800);
        for bad in ["", "h", "0", "1w", "-1h", "99999999999d"] {
            assert!(duration_s(bad).is_err(), "{bad}");
        }
    }
}
