//! The switch, and what a policy does with what it finds.

use std::fmt;
use std::str::FromStr;

/// How far admission goes. The switch caps every narrower mode: a policy in [`Mode::Enforce`] under a switch in
/// [`Mode::Shadow`] refuses nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
#[repr(u8)]
pub enum Mode {
    /// A bare pass-through: nothing is attributed, counted or refused.
    Off,
    /// Requests are attributed and counted; no policy is looked at.
    Observe,
    /// What would be refused is counted, and let in.
    Shadow,
    /// What is over a limit is refused.
    #[default]
    Enforce,
}

impl Mode {
    /// Every mode, the least first.
    pub const ALL: [Self; 4] = [Self::Off, Self::Observe, Self::Shadow, Self::Enforce];

    /// The value of the metric label `mode`, and the word in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Observe => "observe",
            Self::Shadow => "shadow",
            Self::Enforce => "enforce",
        }
    }

    pub(super) fn from_index(index: u8) -> Self {
        Self::ALL
            .get(usize::from(index))
            .copied()
            .unwrap_or_default()
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is not a mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModeError(String);

impl fmt::Display for ModeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not a mode; use off, observe, shadow or enforce",
            self.0
        )
    }
}

impl std::error::Error for ModeError {}

impl FromStr for Mode {
    type Err = ModeError;

    fn from_str(text: &str) -> Result<Self, ModeError> {
        let named = Self::ALL.into_iter().find(|mode| mode.as_str() == text);
        named.ok_or_else(|| ModeError(text.to_owned()))
    }
}
