//! Inputs of plans as they stand in the store: packed, since they are large and seldom read.
//!
//! What always holds: the same scene packs to the same bytes, so that it is kept once however often it is looked at.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use serde::Serialize;
use serde::de::{DeserializeOwned, Error as _};
use sha2::{Digest, Sha256};

use super::StoreError;
use crate::model::{Observations, PlanInputs, Record, ResourceKey, Scene};

/// The inputs of one plan, packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedInputs {
    pub inputs: Vec<u8>,
    pub scene: Vec<u8>,
    /// The scene's name: a hash over its bytes.
    pub hash: String,
}

/// A [`Scene`] that is only looked at; it packs to the same.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SceneView<'a> {
    pub live: &'a Observations,
    pub records: Vec<&'a Record>,
    pub others: Vec<&'a ResourceKey>,
}

const WHAT: &str = "the inputs of a plan";

impl PackedInputs {
    /// Packs both. Takes some time for a large scene, so no transaction should be open meanwhile.
    ///
    /// # Errors
    /// When a value cannot be written as JSON.
    pub fn pack(inputs: &PlanInputs, scene: &SceneView<'_>) -> Result<Self, StoreError> {
        let scene = pack(scene)?;
        Ok(Self { inputs: pack(inputs)?, hash: hex::encode(Sha256::digest(&scene)), scene })
    }

    /// Both as they were.
    ///
    /// # Errors
    /// When the bytes are not what was packed.
    pub fn unpack(&self) -> Result<(PlanInputs, Scene), StoreError> {
        Ok((unpack(&self.inputs)?, unpack(&self.scene)?))
    }
}

fn pack(value: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    let mut packer = ZlibEncoder::new(Vec::new(), Compression::fast());
    let encode = |source| StoreError::Encode { what: WHAT, source };
    // The packer takes small pieces badly.
    let mut buffered = std::io::BufWriter::with_capacity(64 << 10, &mut packer);
    serde_json::to_writer(&mut buffered, value).map_err(encode)?;
    let flushed = buffered.flush();
    drop(buffered);
    flushed.and_then(|()| packer.finish()).map_err(|error| encode(serde_json::Error::io(error)))
}

fn unpack<T: DeserializeOwned>(packed: &[u8]) -> Result<T, StoreError> {
    let decode = |source| StoreError::Decode { what: WHAT, source };
    let mut text = String::new();
    ZlibDecoder::new(packed).read_to_string(&mut text).map_err(|error| decode(serde_json::Error::custom(error)))?;
    serde_json::from_str(&text).map_err(decode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Decisions, Kind, Observation, PlanId, PlanScope};

    #[test]
    fn what_is_packed_is_unpacked_and_bytes_that_are_something_else_are_an_error() {
        let key = ResourceKey::new("checkout", "staging", Kind::Database, "orders");
        let mut live = Observations::default();
        live.objects.insert(key.clone(), Observation::Absent { lost: false, left: None });
        let inputs = PlanInputs {
            plan: PlanId("p1".into()),
            commit: "c1".into(),
            platform: "c2".into(),
            scope: PlanScope::Full,
            decisions: Decisions::default(),
            sagas: Vec::new(),
        };
        let view = SceneView { live: &live, records: Vec::new(), others: vec![&key] };
        let packed = PackedInputs::pack(&inputs, &view).unwrap();
        let scene = Scene { live: live.clone(), records: Vec::new(), others: vec![key.clone()] };
        assert_eq!(packed.unpack().unwrap(), (inputs, scene));
        let half = PackedInputs { scene: packed.scene[..packed.scene.len() / 2].to_vec(), ..packed };
        assert!(matches!(half.unpack(), Err(StoreError::Decode { .. })));
    }
}
