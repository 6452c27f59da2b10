//! Self-signed certificates of a server of ours.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;

use super::TlsError;

/// A certificate with its key, for one address.
#[derive(Clone, Debug)]
pub struct Pair {
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    key_pem: String,
}

/// Where a server reads its pair from.
#[derive(Clone, Debug)]
pub struct PairFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Pair {
    pub fn self_signed(address: IpAddr) -> Result<Pair, TlsError> {
        let made = rcgen::generate_simple_self_signed(vec![address.to_string()])?;
        Ok(Pair {
            certificate: made.cert.der().clone(),
            certificate_pem: made.cert.pem(),
            key_pem: made.signing_key.serialize_pem(),
        })
    }

    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Each file is replaced in one step. Between the two steps they do not fit each other, which a server that reads them
    /// then has to bear.
    pub fn write(&self, files: &PairFiles) -> io::Result<()> {
        replace(&files.key, &self.key_pem)?;
        replace(&files.certificate, &self.certificate_pem)
    }
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let beside = path.with_extension("new");
    fs::write(&beside, text)?;
    fs::rename(&beside, path)
}
