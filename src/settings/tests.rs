//! What settings promise.

use super::*;

fn refusal(text: &str) -> String {
    let settings = Settings::from_toml(text).and_then(|settings| settings.check());
    settings.map_or_else(|error| error.to_string(), |()| "accepted".to_owned())
}

#[test]
fn the_defaults_are_in_range_and_an_empty_file_is_the_defaults() -> Result<(), SettingsError> {
    Settings::default().check()?;
    assert_eq!(Settings::from_toml("")?, Settings::default());
    Ok(())
}

#[test]
fn flags_win_over_the_file_and_the_file_over_the_defaults() -> Result<(), SettingsError> {
    let file = Settings::from_toml("rank = 4\nlr-schedule = 'cosine'\ndevice = 'cuda:1'")?;
    let merged = file.merge(Overrides { rank: Some(2), ..Overrides::default() });
    assert_eq!((merged.rank, merged.lr_schedule), (2, Schedule::Cosine));
    assert_eq!((merged.device, merged.batch_size), (Device::Cuda(1), 3));
    Ok(())
}

#[test]
fn what_a_checkpoint_keeps_of_settings_gives_them_back() -> Result<(), SettingsError> {
    let text = "rank = 4\nreplay-bytes = 70000\nlr-schedule = 'linear'\n\
                target-modules = ['q_proj']\nmatmul-precision = 'medium'";
    let settings = Settings::from_toml(text)?;
    let again = Settings::default().merge(Overrides::from_identity(&settings.identity()?)?);
    assert_eq!(again, settings);
    let old = [("--rank".to_owned(), "4".to_owned())];
    let Overrides { rank, anchor_blocks, anchor_batch_size, whitening, matmul_precision, .. } =
        Overrides::from_identity(&old)?;
    assert_eq!((rank, anchor_blocks, whitening), (Some(4), Some(0), Some(0.0)));
    assert_eq!(anchor_batch_size, Some(1), "it took one text a batch, whatever is chosen now");
    // It knew no other precision, whatever is chosen where nobody names one now.
    assert_eq!(matmul_precision, Some(MatmulPrecision::Highest));
    let strange = [("--no-such-key".to_owned(), "1".to_owned())];
    assert!(Overrides::from_identity(&strange).is_err());
    Ok(())
}

#[test]
fn a_refusal_of_a_file_is_one_line_with_key_and_line() {
    let unknown = refusal("rank = 4\n\nrnak = 8\n");
    assert!(unknown.contains("line 3") && unknown.contains("`rnak`"), "{unknown}");
    let wrong = refusal("seed = 1\nrank = 'four'\n");
    assert!(wrong.contains("line 2") && wrong.contains("string"), "{wrong}");
    let broken = refusal("rank = \n");
    assert!(broken.contains("line 1"), "{broken}");
    let word = refusal("head-weights = 'int9'\n");
    assert!(word.contains("`int9`") && word.contains("`int8`"), "{word}");
    for text in [unknown, wrong, broken, word, refusal("device = 'tpu'")] {
        assert!(text != "accepted" && !text.contains('\n'), "{text}");
    }
}

#[test]
fn every_value_out_of_range_is_refused_by_name() {
    let cases = [
        ("rank = 0", "--rank"),
        ("whitening = -1.0", "--whitening"),
        ("retain = 1.0", "--retain"),
        ("retain = nan", "--retain"),
        ("gamma = nan", "--gamma"),
        ("learning-rate = 0.0", "--learning-rate"),
        ("learning-rate = inf", "--learning-rate"),
        ("warmup = 2.5", "--warmup"),
        ("num-layers = 0", "--num-layers"),
        ("max-seq-length = 1", "--max-seq-length"),
        ("target-modules = []", "--target-modules"),
        ("target-modules = ['q_proj', 'q_proj']", "--target-modules"),
        ("target-modules = ['qkv']", "qkv"),
        ("target-modules = ['all-linear', 'q_proj']", "all-linear, or one or more"),
        ("replay-bytes = 0", "--replay-bytes"),
        ("gate-old = nan", "--gate-old"),
    ];
    for (text, name) in cases {
        assert!(refusal(text).contains(name), "{text}: {}", refusal(text));
    }
    for text in ["retain = 0.0", "num-layers = -1", "replay-batch-size = 0", "warmup = 20"] {
        assert_eq!(refusal(text), "accepted", "{text}");
    }
}

#[test]
fn layers_are_counted_from_the_top_and_never_more_than_there_are() -> Result<(), SettingsError> {
    let of = |num_layers| Settings { num_layers, ..Settings::default() };
    assert_eq!((of(-1).layers_of(6)?, of(4).layers_of(6)?), (6, 4));
    assert!(of(7).layers_of(6).is_err());
    Ok(())
}

/// Oracle: the formulas by hand, `lr * min(1, k / 5)` and half a cosine; 1e-12 is f64 rounding.
#[test]
fn the_learning_rate_warms_up_and_then_follows_its_schedule() {
    let mut settings =
        Settings { iters: 105, warmup: 5.0, learning_rate: 1e-2, ..Settings::default() };
    let near = |got: f64, want: f64| assert!((got - want).abs() < 1e-12, "{got} {want}");
    near(settings.learning_rate_at(1), 2e-3);
    near(settings.learning_rate_at(5), 1e-2);
    near(settings.learning_rate_at(105), 1e-2);
    settings.lr_schedule = Schedule::Linear;
    near(settings.learning_rate_at(56), 5e-3);
    settings.lr_schedule = Schedule::Cosine;
    near(settings.learning_rate_at(31), 0.5e-2 * (1.0 + std::f64::consts::FRAC_PI_4.cos()));
    settings.warmup = 0.2;
    assert_eq!(settings.warmup_steps(), 21);
}

#[test]
fn what_a_checkpoint_keeps_changes_with_the_numbers_only() -> Result<(), SettingsError> {
    let begun = Settings::default().identity()?;
    let quiet = Settings { steps_per_report: 1, resume: true, ..Settings::default() };
    assert_eq!(quiet.identity()?, begun);
    let other = Settings { rank: 24, ..Settings::default() }.identity()?;
    let changed: Vec<_> = other.iter().zip(&begun).filter(|(now, was)| now != was).collect();
    assert!(matches!(changed[..], [((name, _), _)] if name == "--rank"), "{changed:?}");
    // Where a job is scored decides which of its adapters is the best.
    for scored in [
        Settings { steps_per_eval: 7, ..Settings::default() },
        Settings { patience: 3, ..Settings::default() },
    ] {
        assert_ne!(scored.identity()?, begun);
    }
    let exact = Settings {
        head_weights: HeadWeights::F32,
        activations: Activations::Recompute,
        ..Settings::default()
    };
    assert_eq!(exact.identity()?, begun);
    for rounded in [
        Settings { head_weights: HeadWeights::Int8, ..Settings::default() },
        Settings { matmul_precision: MatmulPrecision::Medium, ..Settings::default() },
    ] {
        assert_ne!(rounded.identity()?, begun);
    }
    // A checkpoint of a version that knew no other precision is one of highest.
    let highest = Settings { matmul_precision: MatmulPrecision::Highest, ..Settings::default() };
    assert!(highest.identity()?.iter().all(|(name, _)| name != "--matmul-precision"));
    Ok(())
}

#[test]
fn a_method_changes_what_it_is_about_and_nothing_else() -> Result<(), SettingsError> {
    let chosen = Settings { rank: 3, as_published: true, whitening: 9.0, ..Settings::default() };
    for &method in Method::ALL {
        let applied = method.apply(&chosen);
        assert_eq!((applied.rank, applied.check().is_ok()), (3, true));
        assert_eq!(applied.as_published, method == Method::AsPublished);
        assert_eq!(method.word().parse::<Method>()?, method);
        assert_eq!(Method::titled(method.title()), Some(method));
    }
    assert_eq!(Method::Sequential.apply(&chosen).replay_batch_size, 0);
    let average = Method::ReplayAverage.apply(&chosen);
    assert!(average.retain > 0.9 && average.gamma == 0.0);
    let bare =
        Settings { as_published: false, anchor_weight: 0.0, whitening: 0.0, ..chosen.clone() };
    assert!(Method::Ilora.apply(&chosen) == bare && bare.own_texts() == 0);
    let whitened = Settings { whitening: chosen.whitening, ..bare };
    assert!(Method::Whitened.apply(&chosen) == whitened);
    assert_eq!(whitened.own_texts(), chosen.anchor_blocks);
    // As many blocks as the others: the base's own takes the place of a replayed one.
    let replay_batch_size = chosen.replay_batch_size - 1;
    let whole = Settings { as_published: false, replay_batch_size, ..chosen.clone() };
    assert!(Method::Sapwood.apply(&chosen) == whole);
    assert!(Method::Anchored.apply(&chosen) == Settings { whitening: 0.0, ..whole });
    for (texts, old, left) in [(3, 5, 2), (9, 5, 1), (2, 0, 0)] {
        let chosen =
            Settings { anchor_batch_size: texts, replay_batch_size: old, ..Settings::default() };
        assert_eq!(Method::Sapwood.apply(&chosen).replay_batch_size, left);
        assert_eq!(Method::Ilora.apply(&chosen).replay_batch_size, old);
    }
    let falls = |method: Method| method.apply(&chosen).lr_schedule == Schedule::Cosine;
    assert!(falls(Method::Replay) && falls(Method::AsPublished) && falls(Method::Joint));
    assert!(!falls(Method::ReplayAverage) && !falls(Method::Anchored));
    let Err(error) = "upper".parse::<Method>() else { unreachable!("there is no such method") };
    assert!(error.to_string().contains("er-ema"), "{error}");
    Ok(())
}

#[test]
fn joint_training_takes_as_many_blocks_a_step_as_the_others() {
    let chosen = Settings { batch_size: 5, replay_batch_size: 3, ..Settings::default() };
    let blocks = |method: Method| {
        let Settings { batch_size, replay_batch_size, .. } = method.apply(&chosen);
        (batch_size, replay_batch_size)
    };
    assert_eq!((blocks(Method::Replay), blocks(Method::Ilora)), ((5, 3), (5, 3)));
    assert_eq!((blocks(Method::Joint), blocks(Method::JointLong)), ((8, 0), (8, 0)));
    assert_eq!((Method::Joint.joint(), Method::JointLong.joint()), (Some(1), Some(3)));
    assert_eq!(Method::Replay.joint(), None);
}

#[test]
fn what_another_wish_rules_out_is_refused_and_what_follows_from_one_is_said()
-> Result<(), SettingsError> {
    let refusal = |text: &str| {
        let wishes = Overrides::from_toml(text).and_then(Overrides::together);
        wishes.map_or_else(|error| error.to_string(), |_| "accepted".to_owned())
    };
    for (text, named) in [
        ("anchor-blocks = 0\nwhitening = 30", ["--whitening 30", "--anchor-blocks 0"]),
        ("anchor-blocks = 0\nanchor-weight = 2", ["--anchor-weight 2", "--anchor-blocks 0"]),
        ("anchor-blocks = 0\nanchor-batch-size = 2", ["size 2", "--anchor-blocks 0"]),
        ("anchor-weight = 0\nanchor-batch-size = 2", ["size 2", "--anchor-weight 0"]),
        ("as-published = true\nanchor-batch-size = 2", ["size 2", "--as-published"]),
        ("steps-per-eval = 0\npatience = 3", ["--patience 3", "--steps-per-eval 0"]),
        ("as-published = true\nretain = 0.5", ["--retain 0.5", "--as-published"]),
        ("as-published = true\ngamma = 0", ["--gamma 0", "--as-published"]),
        ("as-published = true\nembedding-layers = 'all'", ["layers all", "--as-published"]),
        ("as-published = true\nreptile-steps = 5", ["--reptile-steps 5", "--as-published"]),
    ] {
        let refusal = refusal(text);
        assert!(named.iter().all(|name| refusal.contains(name)), "{text}: {refusal}");
    }
    let together = ["whitening = 3", "retain = 0.5\ngamma = 2", "steps-per-eval = 0\npatience = 0"];
    for text in together.into_iter().chain(["anchor-blocks = 0\nwhitening = 0"]) {
        assert_eq!(refusal(text), "accepted", "{text}");
    }
    let linear = Overrides::from_toml("target-modules = ['all-linear']")?.together()?;
    assert_eq!(linear.target_modules, Some(TARGET_MODULES.map(str::to_owned).to_vec()));
    let published = Overrides::from_toml("as-published = true")?.together()?;
    let settings = Settings::default().merge(published);
    assert_eq!((settings.retain, settings.gamma, settings.own_texts()), (0.25, 1.0, 0));
    Ok(())
}

#[test]
fn another_seed_is_another_job() {
    let of = |seed| Settings { seed, ..Settings::default() }.identity().ok();
    assert!(of(1).is_some() && of(1) == of(1) && of(1) != of(2));
}
