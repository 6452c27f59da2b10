//! The self-signed certificate of `tidegate dev --tls`: for this machine's own names, kept in the data folder.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use tidegate_gateway::config::CertificateConfig;

/// What clients have to trust.
pub const CERTIFICATE_FILE: &str = "dev-tls.crt";
const KEY_FILE: &str = "dev-tls.key";
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Makes the pair at first use.
pub fn ensure(folder: &Path) -> anyhow::Result<CertificateConfig> {
    let pair = CertificateConfig { certificate: folder.join(CERTIFICATE_FILE), key: folder.join(KEY_FILE) };
    if pair.certificate.exists() && pair.key.exists() {
        return Ok(pair);
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let made = rcgen::generate_simple_self_signed(NAMES.map(str::to_owned))?;
    let mut key = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&pair.key)?;
    key.write_all(made.signing_key.serialize_pem().as_bytes())?;
    fs::write(&pair.certificate, made.cert.pem())?;
    Ok(pair)
}
