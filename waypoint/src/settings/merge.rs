//! Pure. Overlays on defaults, the most specific last.

use std::sync::Arc;

use super::fields::{Overlay, Settings};
use super::value::Effective;

/// What one source says.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The source as a user knows it: `MeshPolicy culvert-system/default`.
    pub source: Arc<str>,
    /// What it says.
    pub overlay: Arc<Overlay>,
}

/// The settings of these layers, the least specific first.
pub fn merge<'a>(layers: impl IntoIterator<Item = &'a Layer>) -> Settings {
    let mut settings = Settings::default();
    for layer in layers {
        settings.apply(&layer.overlay);
    }
    settings
}

/// As [`merge`], with the source of each value.
pub fn explain<'a>(layers: impl IntoIterator<Item = &'a Layer>) -> Vec<Effective> {
    let mut rows = Settings::default().effective("built-in default");
    for layer in layers {
        for (row, (name, value)) in rows.iter_mut().zip(layer.overlay.said()) {
            debug_assert_eq!(row.name, name);
            if let Some(value) = value {
                row.value = value;
                row.source = Arc::clone(&layer.source);
            }
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(source: &str, overlay: Overlay) -> Layer {
        Layer { source: source.into(), overlay: Arc::new(overlay) }
    }

    #[test]
    fn the_most_specific_layer_wins_field_by_field() {
        let layers = [
            layer(
                "MeshPolicy mesh",
                Overlay { retry_attempts: Some(5), budget_percent: Some(30), ..Overlay::default() },
            ),
            layer("MeshPolicy shop", Overlay { retry_attempts: Some(1), ..Overlay::default() }),
        ];
        let settings = merge(&layers);
        assert_eq!((settings.retry_attempts, settings.budget_percent, settings.max_pending), (1, 30, 1024));

        let rows = explain(&layers);
        let row =
            |name| rows.iter().find(|row| row.name == name).map(|row| (row.value.as_str(), &*row.source)).unwrap();
        assert_eq!(row("retry.attempts"), ("1", "MeshPolicy shop"));
        assert_eq!(row("retry.budget.percent"), ("30", "MeshPolicy mesh"));
        assert_eq!(row("deadline.default"), ("15s", "built-in default"));
        assert_eq!(row("retry.codes"), ("502,503,504", "built-in default"));
    }
}
