//! Compiles the `.proto` files without `protoc`: protox is a compiler written in Rust.

use std::path::PathBuf;

use prost::Message as _;

const FILES: &[&str] = &["bus", "client", "link", "node", "message", "push", "query", "storage"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files: Vec<String> = FILES.iter().map(|name| format!("tidegate/v1/{name}.proto")).collect();
    for file in &files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(&files, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("tidegate_descriptor.bin");
    std::fs::write(out, descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
