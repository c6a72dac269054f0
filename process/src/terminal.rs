//! What a command says on its terminal, and with which exit code it ends.

use std::error::Error;
use std::io::{self, Write as _};
use std::process::ExitCode;

use crate::telemetry::escape::lines;

/// What was asked about is wrong.
pub const WRONG: u8 = 1;
/// The program was called in a wrong way, or cannot run as it is configured.
pub const USAGE: u8 = 2;

/// Prints an error with its causes, and gives the exit code `code`.
pub fn fail(error: &(dyn Error + 'static), code: u8) -> ExitCode {
    eprintln!("error: {}", lines(&with_causes(error)));
    ExitCode::from(code)
}

/// Prints the result of a command. That nobody reads it to its end, as in `culvert get … | head`, is no error.
///
/// # Errors
/// Standard output cannot be written.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// An error with its causes. Many of our errors tell their cause in their own words: it is not told twice.
fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use thiserror::Error;

    use super::*;

    #[derive(Debug, Error)]
    #[error("{0}")]
    struct Layer(&'static str, #[source] Option<Box<Self>>);

    fn layers(texts: &[&'static str]) -> Layer {
        let (first, rest) = texts.split_first().unwrap();
        Layer(first, (!rest.is_empty()).then(|| Box::new(layers(rest))))
    }

    #[test]
    fn a_cause_is_told_once() {
        assert_eq!(with_causes(&layers(&["reading ca-key.pem", "no such file"])), "reading ca-key.pem: no such file");
        let in_own_words = layers(&["--ca-dir ca", "ca-key.pem: no such file", "no such file"]);
        assert_eq!(with_causes(&in_own_words), "--ca-dir ca: ca-key.pem: no such file");
    }
}
