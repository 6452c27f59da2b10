//! The control process over real sockets on ephemeral ports: what backends, users and gateways see.

mod auth;
mod groups;
mod history;
mod links;
mod push_streams;
mod pushes;
mod support;
mod surface;
