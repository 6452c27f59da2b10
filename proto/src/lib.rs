//! Tidegate's protobuf messages and gRPC services, generated from `proto/tidegate/v1`.
//!
//! `client.proto` is the binary client sub-protocol, `push.proto` and `query.proto` are for backends, `link.proto` is
//! spoken between gateway and control, `storage.proto` is what the embedded log's records hold, `bus.proto` is what
//! stands in the topics of a cluster.

#![forbid(unsafe_code)]

/// Package `tidegate.v1`.
pub mod v1 {
    #![allow(clippy::all)]
    tonic::include_proto!("tidegate.v1");
}

/// The encoded `FileDescriptorSet` of all files, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tidegate_descriptor.bin"));
