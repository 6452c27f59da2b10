//! The one registry of close codes. The range tells the client what to do: 3000–3499 reconnect, 3500–3999 do not.

/// A WebSocket close code that this gateway sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum CloseCode {
    Normal = 1000,
    GoingAway = 1001,
    Protocol = 1002,
    Unsupported = 1003,
    InvalidData = 1007,
    Policy = 1008,
    TooBig = 1009,
    Internal = 1011,
    /// Server restarting.
    Restart = 3000,
    Drain = 3001,
    /// The ring changed: another gateway is this client's place.
    Moved = 3002,
    /// Slow and beyond resync.
    Slow = 3003,
    Overload = 3004,
    HeartbeatLost = 3005,
    BadToken = 3500,
    TokenExpired = 3501,
    /// A newer device took the place.
    Replaced = 3502,
    Banned = 3503,
    BadRequest = 3504,
    Limit = 3505,
    Version = 3506,
    LoggedOut = 3507,
}

impl CloseCode {
    pub fn number(self) -> u16 {
        self as u16
    }

    /// For whom no number would say enough.
    pub fn name(self) -> &'static str {
        match self {
            CloseCode::Normal => "normal",
            CloseCode::GoingAway => "going_away",
            CloseCode::Protocol => "protocol",
            CloseCode::Unsupported => "unsupported",
            CloseCode::InvalidData => "invalid_data",
            CloseCode::Policy => "policy",
            CloseCode::TooBig => "too_big",
            CloseCode::Internal => "internal",
            CloseCode::Restart => "restart",
            CloseCode::Drain => "drain",
            CloseCode::Moved => "moved",
            CloseCode::Slow => "slow",
            CloseCode::Overload => "overload",
            CloseCode::HeartbeatLost => "heartbeat_lost",
            CloseCode::BadToken => "bad_token",
            CloseCode::TokenExpired => "token_expired",
            CloseCode::Replaced => "replaced",
            CloseCode::Banned => "banned",
            CloseCode::BadRequest => "bad_request",
            CloseCode::Limit => "limit",
            CloseCode::Version => "version",
            CloseCode::LoggedOut => "logged_out",
        }
    }

    /// Whether the client should come back.
    pub fn reconnect(self) -> bool {
        matches!(self.number(), 1001 | 1011 | 3000..=3499)
    }
}
