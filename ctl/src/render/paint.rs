//! Colours, and text that is safe to print.

/// What a piece of text means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Tone {
    /// Nothing special.
    Plain,
    /// As it should be.
    Good,
    /// Needs somebody.
    Bad,
    /// Worth a look.
    Warn,
    /// A heading.
    Title,
}

/// Colours on or off.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    on: bool,
}

impl Paint {
    /// `on`: a terminal is looking and NO_COLOR is not set.
    pub(crate) fn new(on: bool) -> Self {
        Self { on }
    }

    /// The text in its colour.
    pub(crate) fn text(self, tone: Tone, text: &str) -> String {
        // ECMA-48 select graphic rendition.
        let code = match tone {
            _ if !self.on => return text.to_owned(),
            Tone::Plain => return text.to_owned(),
            Tone::Good => "32",
            Tone::Bad => "1;31",
            Tone::Warn => "33",
            Tone::Title => "1",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// The text with control characters replaced: names come from other machines.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
