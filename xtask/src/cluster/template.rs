//! Pure. Configuration files with holes: `{{name}}`.

use anyhow::{Result, bail};

/// The text with every hole filled.
///
/// # Errors
/// When a hole has no value, or a value no hole: either is a mistake in the table.
pub(crate) fn fill(text: &str, values: &[(&str, &str)]) -> Result<String> {
    let mut filled = text.to_owned();
    for (name, value) in values {
        let hole = format!("{{{{{name}}}}}");
        if !filled.contains(&hole) {
            bail!("there is no {hole} in the text");
        }
        filled = filled.replace(&hole, value);
    }
    if let Some(start) = filled.find("{{") {
        let rest = filled[start..].lines().next().unwrap_or_default();
        bail!("nothing fills `{rest}`");
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hole_is_filled_and_every_value_used() {
        assert_eq!(fill("a {{b}} {{b}} {c: {d: e}}", &[("b", "x")]).unwrap(), "a x x {c: {d: e}}");
        assert!(fill("a {{b}}", &[]).unwrap_err().to_string().contains("nothing fills `{{b}}`"));
        assert!(fill("a", &[("b", "x")]).unwrap_err().to_string().contains("{{b}}"));
    }
}
