//! The message bus of a cluster: topics, the forms of their records, and the ports that adapters serve.
#![forbid(unsafe_code)]
