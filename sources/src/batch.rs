//! Pure. What a source hands over at once.

use mesh::model::update::Update;

use crate::objects::kind::Object;

/// What changed together, and so takes effect together.
#[derive(Debug, Default)]
pub struct Batch {
    /// What the change comes to in the model: the fewest updates. The first batch of a source has the whole mesh.
    pub updates: Vec<Update>,
    /// The objects that the consumer reads by itself, each with its [`Object::document`], in the order of their
    /// origins: all of them if any has changed, `None` if none has. Several may have one key: the first is in effect,
    /// and the consumer tells the others.
    pub objects: Option<Vec<Object>>,
}
