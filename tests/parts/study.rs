//! The study against numpy and scipy, between engines, and against the scores of the stream that it is made of.
//!
//! Oracle: `tools/golden/study.py` (numpy and scipy, f64).

use super::small::{self, blocks};
use crate::common::{Golden, Surprise, Within, assert_close};
use ndarray::Array3;
use sapwood::adapter::{Adapter, Spec, Strength, Target};
use sapwood::base::Base;
use sapwood::block::Block;
use sapwood::gate::Matrix;
use sapwood::head::{Backend, Group, Head, Keep};
use sapwood::learner::{Domains, Engines, Halt, Stream};
use sapwood::ports::Memory;
use sapwood::settings::{Method, Settings};
use sapwood::study::{Features, Space, StudyError, along, cka, spearman};
use std::ops::ControlFlow;
use std::sync::Arc;

const F32: Within = Within { relative: 1e-4, because: "f32 sums in another order" };

#[test]
fn cka_is_that_of_numpy() -> Result<(), Surprise> {
    let expected = Golden::load("study/cka")?;
    for name in ["few", "wide", "many"] {
        let features = |side: &str| -> Result<Features, Surprise> {
            let name = format!("{name}.{side}");
            let [_, width] = expected.shape(&name)?[..] else { return Err("shape".into()) };
            Ok(Features { values: expected.f32(&name)?, width })
        };
        let got = cka(&features("first")?, &features("second")?)?;
        let wanted = f64::from(expected.f32(&format!("{name}.cka"))?[0]);
        // The file keeps f32.
        assert!((got - wanted).abs() < 1e-6, "{name}: {got}, expected {wanted}");
    }
    Ok(())
}

#[test]
fn rank_correlation_is_that_of_scipy() -> Result<(), Surprise> {
    let expected = Golden::load("study/rank")?;
    for name in ["three", "equal", "most"] {
        let values = expected.f32(&format!("{name}.pairs"))?;
        let pairs: Vec<[f64; 2]> =
            values.chunks(2).map(|pair| [pair[0].into(), pair[1].into()]).collect();
        let got = spearman(&pairs).ok_or("no correlation")?;
        let wanted = f64::from(expected.f32(&format!("{name}.rho"))?[0]);
        // The file keeps f32.
        assert!((got - wanted).abs() < 1e-6, "{name}: {got}, expected {wanted}");
    }
    Ok(())
}

/// A tiny base on disk.
fn model() -> Result<tempfile::TempDir, Surprise> {
    let place = tempfile::tempdir()?;
    small::model(place.path());
    Ok(place)
}

/// Both engines tell the same rows of every layer, and of real tokens alone.
#[test]
fn what_leaves_the_layers_is_the_same_on_both_engines() -> Result<(), Surprise> {
    let place = model()?;
    let base = Base::open(&place.path().join("model"))?;
    let (tap, backend) = (1, Backend::cpu());
    let heads = [
        Head::load(&base, tap, &backend, 16, Keep::default())?,
        Head::load_reference(&base, tap, &backend, 16)?,
    ];
    let own = blocks(10, 3);
    let all: Vec<&Block> = own.iter().collect();
    let longest = all.iter().map(|block| block.tokens.len()).max().unwrap_or(0);
    let width = base.config().hidden;
    let hidden = Array3::from_shape_fn((3, longest, width), |(b, t, d)| {
        ((b * 31 + t * 7 + d) % 13) as f32 / 13.0 - 0.5
    });
    let strength = Strength { rank: 2, alpha: 4.0 };
    let spec = Spec::uniform(base.config(), tap..base.config().layers, &Target::ALL, strength);
    let values = (0..spec.len()).map(|i| (i % 17) as f32 / 40.0 - 0.2).collect();
    let adapter = Adapter { spec, values };
    for adapter in [None, Some(&adapter)] {
        let mut told = [Vec::new(), Vec::new()];
        for (head, told) in heads.iter().zip(&mut told) {
            let group = Group { blocks: &all, hidden: &hidden };
            head.each_layer(&group, adapter, &mut |layer, rows| told.push((layer, rows.to_vec())))?;
        }
        let [ours, theirs] = told;
        let layers: Vec<usize> = ours.iter().map(|(layer, _)| *layer).collect();
        assert_eq!(layers, (tap..base.config().layers).collect::<Vec<_>>());
        let rows: usize = all.iter().map(|block| block.tokens.len()).sum();
        for ((layer, ours), (_, theirs)) in ours.iter().zip(&theirs) {
            assert_eq!(ours.len(), rows * width);
            assert_close(&format!("layer {layer}"), ours, theirs, &F32);
        }
    }
    Ok(())
}

/// The lines between a stream's adapters end at what the stream scored, in both spaces.
#[test]
fn a_line_ends_at_the_scores_of_the_stream() -> Result<(), Surprise> {
    let place = model()?;
    let settings = Settings {
        iters: 8,
        batch_size: 4,
        replay_batch_size: 3,
        replay_blocks: 16,
        num_layers: 2,
        max_seq_length: 16,
        learning_rate: 1e-2,
        rank: 4,
        threads: 1,
        ..Settings::default()
    };
    let engines = Engines::load(&place.path().join("model"), &settings)?;
    let mut domains = Domains::new();
    for (name, from) in [("first", 10), ("second", 50)] {
        domains.push(name.to_owned(), blocks(from, 18), blocks(from, 9), 100, 100);
    }
    domains.general = blocks(30, 4);
    let mut stream = Stream::new(&engines, &domains, 1 << 20)?;
    let mut kept = Vec::new();
    let keep = |_: &Matrix, halt: Halt<'_>| {
        kept.push(halt.learners.slow.clone());
        ControlFlow::Continue(())
    };
    let matrix = stream.follow(Method::Ilora, &settings, None, |_, _| {}, keep)?;
    assert_eq!(matrix, stream.run(Method::Ilora, &settings, |_, _| {})?);

    // Stopped after the first domain, kept, taken again by another program: the same to the bit.
    for method in [Method::Ilora, Method::Sequential] {
        let whole = stream.run(method, &settings, |_, _| {})?;
        let (storage, mut done) = (Arc::new(Memory::default()), Ok(()));
        let stop = |matrix: &Matrix, halt: Halt<'_>| {
            done = halt.keep(&engines, matrix.rows.len(), storage.clone());
            ControlFlow::Break(())
        };
        let half = stream.follow(method, &settings, None, |_, _| {}, stop)?;
        done?;
        assert_eq!(half.rows, whole.rows[..1]);
        let rest = Halt::take(&engines, method, &settings, storage.clone())?.ok_or("nothing")?;
        assert_eq!(rest.domains(), 1);
        let from = Some((rest, half));
        let go_on = |_: &Matrix, _: Halt<'_>| ControlFlow::Continue(());
        assert_eq!(stream.follow(method, &settings, from, |_, _| {}, go_on)?, whole);
        let other = Settings { rank: 5, ..settings.clone() };
        assert!(Halt::take(&engines, method, &other, storage).is_err());
    }
    assert!(
        Halt::take(&engines, Method::Sequential, &settings, Arc::new(Memory::default()))?.is_none()
    );
    let ends = [("first", &kept[0]), ("second", &kept[1])];
    for space in Space::ALL {
        let score =
            |adapter: &Adapter| -> Result<_, Surprise> { Ok(stream.scores(Some(adapter))?) };
        let curve = along(space, ends, 3, score)?;
        let at: Vec<f64> = curve.points.iter().map(|point| point.at).collect();
        assert_eq!(at, [0.0, 0.5, 1.0]);
        for (point, row, general) in [
            (&curve.points[0], &matrix.rows[0], matrix.general[1]),
            (&curve.points[2], &matrix.rows[1], matrix.general[2]),
        ] {
            // Twice the ranks are summed in another order.
            let close = |got: f64, expected: f64| (got - expected).abs() < 1e-5 * expected;
            assert!(point.losses.iter().zip(row).all(|(got, expected)| close(*got, *expected)));
            assert!(close(point.general.unwrap_or(f64::NAN), general));
        }
        let [start, middle, end] = [0, 1, 2].map(|at| curve.points[at].distance);
        assert!(start < 1e-6 * end && 0.0 < middle && middle < end, "{start} {middle} {end}");
    }

    // A moment is like itself, layer by layer, and the other one is not quite.
    let seen = |adapter| stream.features(0, Some(adapter), 500);
    let (then, end) = (seen(&kept[0])?, seen(&kept[1])?);
    assert_eq!(then.len(), 2);
    for (then, end) in then.iter().zip(&end) {
        assert_eq!((then.mean.rows(), then.last.rows()), (9, 9));
        for (one, other) in [(&then.mean, &end.mean), (&then.last, &end.last)] {
            assert!((cka(one, one)? - 1.0).abs() < 1e-9);
            assert!(cka(one, other)? < 1.0 - 1e-6);
        }
    }
    // A batch has 8 blocks, and is not cut.
    let few = stream.features(0, None, 1)?;
    assert_eq!(few[0].mean.rows(), 8);
    assert!(matches!(cka(&few[0].mean, &then[0].mean), Err(StudyError::Rows { .. })));
    Ok(())
}
