//! The registry of a cluster: who is there, who owns what, and configuration that changes while everything runs.
#![forbid(unsafe_code)]
