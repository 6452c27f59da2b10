//! A result as a page: one HTML file that needs nothing but itself, to be read on any screen, printed, or sent by mail.
//!
//! What a result does not hold does not appear; seconds without data are gaps. The page repeats the verdict and its
//! reasons before any figure, so that no figure of a void run is read as the server's.

mod charts;
mod figures;
mod head;
mod markup;
mod page;
mod plot;
mod quantity;
mod table;
mod tables;

use std::io;
use std::path::Path;

use crate::result::{RunResult, SCHEMA};

pub use page::html;

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("not a result of tidegate-load")]
    Json(#[from] serde_json::Error),
    #[error("a result of schema {found}; this harness reads schema {SCHEMA}")]
    Schema { found: u32 },
}

/// Writes `result.json` and `report.html` into the folder, which is made if need be.
pub fn write(result: &RunResult, folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let json = serde_json::to_string_pretty(result).map_err(io::Error::other)?;
    std::fs::write(folder.join("result.json"), json + "\n")?;
    std::fs::write(folder.join("report.html"), html(result))
}

/// The result in a `result.json`.
pub fn from_json(text: &str) -> Result<RunResult, ReadError> {
    #[derive(serde::Deserialize)]
    struct Versioned {
        schema: u32,
    }
    // First the schema: of another one, fields are missing, and naming those would mislead.
    let Versioned { schema } = serde_json::from_str(text)?;
    if schema != SCHEMA {
        return Err(ReadError::Schema { found: schema });
    }
    Ok(serde_json::from_str(text)?)
}

#[cfg(test)]
mod tests;
