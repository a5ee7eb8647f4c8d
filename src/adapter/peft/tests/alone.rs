//! Folders read where no base is at hand.

use super::*;

fn alone(folder: &Folder, base_hash: Option<[u8; 32]>) -> Result<Adapter, AdapterError> {
    let Folder { config, tensors, meta } = folder;
    let files = Files { config, tensors, meta: meta.as_deref() };
    read_alone(files, base_hash).map(|(adapter, _)| adapter)
}

#[test]
fn an_adapter_is_the_same_without_its_base() {
    let config = config();
    let mixed = Spec::from_fn(&config, 1..3, |layer, target| match (layer, target) {
        (1, Target::Q) => Some(Strength { rank: 2, alpha: 4.0 }),
        (2, Target::Down) => Some(Strength { rank: 3, alpha: 0.1 }),
        _ => None,
    });
    for adapter in [usual(), random(mixed)] {
        let folder = Folder::of(&adapter);
        assert!(alone(&folder, None).unwrap() == adapter);
        assert!(alone(&folder, Some(meta().base_hash)).is_ok());
        let got = alone(&folder, Some([0xab; 32])).unwrap_err().to_string();
        assert!(got.contains("expected base abababababab"), "{got}");
        assert_eq!(base_name(&folder.config).unwrap(), "base");
    }
    assert_eq!(base_name(b"{}").unwrap(), "");
}

/// Shapes are believed only as far as they agree among themselves.
#[test]
fn tensors_that_contradict_each_other_are_refused_without_a_base() {
    let (adapter, whole) = (usual(), Folder::of(&usual()));
    let name = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight";
    for (shape, expected) in [
        (vec![16, 2], "expected shape [2, 2], got [16, 2]"),
        (vec![32], "expected shape [2, 32], got [32]"),
        (vec![2, 0], "expected shape [2, 1], got [2, 0]"),
        (vec![], "expected shape [2, 1], got []"),
    ] {
        let tensors = tensors(&adapter, Dtype::F32, |here, mut numbers, old| {
            let shape = if here == name { shape.clone() } else { old };
            numbers.truncate(shape.iter().product());
            Some((here.to_owned(), numbers, shape))
        });
        let got = alone(&Folder { tensors, ..whole.clone() }, None).unwrap_err().to_string();
        assert!(got.contains(name) && got.contains(expected), "{got}");
    }
    for (wrong, reason) in [("layers.4096.", "below 4096"), ("layers.4.", "is missing")] {
        let tensors = tensors(&adapter, Dtype::F32, |here, numbers, shape| {
            Some((here.replace("layers.1.", wrong), numbers, shape))
        });
        let got = alone(&Folder { tensors, ..whole.clone() }, None).unwrap_err().to_string();
        assert!(got.contains(reason), "{got}");
    }
}
