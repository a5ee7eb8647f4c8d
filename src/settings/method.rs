//! The ways of learning that a stream compares: one table, a row each.
//!
//! - In: a method and the settings as chosen. Out: the settings without what the method turns off.
//! - A new method is a row at the end of this file: what it is, its name on the command line, its
//!   title in tables and plots, its way through the domains, what it turns off.

use super::{Schedule, Settings, SettingsError, range};
use std::str::FromStr;

/// What a method may do without; the default has all of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Blocks of earlier domains in every batch.
    Replay,
    /// A slow learner that is an average of the fast one, instead of its copy.
    Average,
    /// Hidden states of fast held close to those of slow.
    Distance,
    /// Fast held to the base on text that the base wrote.
    Anchor,
    /// A moved in inputs whitened by such text.
    Whitening,
}

/// How a method goes through the domains.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// One domain after the other, as a device meets them.
    InTurn,
    /// The same, as the authors' program of I-LoRA does it.
    AsPublished,
    /// The same, going back to what was learned before every few steps.
    Reptile,
    /// All domains at once, for so many times the steps of the others.
    Joint(u64),
}

/// Steps of MER between two of Reptile, and how much of the way those go.
const REPTILE_STEPS: u64 = 10;
const REPTILE_RATE: f64 = 0.5;

impl Method {
    /// `settings` with what this method turns off or fixes; the rest stays as chosen.
    pub fn apply(self, settings: &Settings) -> Settings {
        let as_published = self.way() == Way::AsPublished;
        let mut chosen = Settings { as_published, ..settings.clone() };
        if self.joint().is_some() {
            // Where nothing is old, the blocks that others replay are blocks like any other.
            chosen.batch_size += chosen.replay_batch_size;
        }
        let is_averaged = !as_published && !self.off().contains(&Part::Average);
        if !is_averaged && chosen.lr_schedule == Schedule::Constant {
            // What is not averaged, or hardly, comes to rest only under a rate that falls.
            chosen.lr_schedule = Schedule::Cosine;
        }
        let is_anchored = !as_published && !self.off().contains(&Part::Anchor);
        if is_anchored && chosen.anchor_blocks > 0 && chosen.anchor_weight > 0.0 {
            // The base's own blocks take the place of replayed ones, but for the last: every method has as many.
            let left = chosen.replay_batch_size.saturating_sub(chosen.anchor_batch_size);
            chosen.replay_batch_size = left.max(1).min(chosen.replay_batch_size);
        }
        if self.way() == Way::Reptile {
            chosen.retain = 1.0 - REPTILE_RATE;
            if chosen.reptile_steps == 0 {
                chosen.reptile_steps = REPTILE_STEPS;
            }
        } else if self != Self::Sapwood {
            chosen.reptile_steps = 0;
        }
        for part in self.off() {
            match part {
                Part::Replay => chosen.replay_batch_size = 0,
                Part::Average => chosen.retain = 0.0,
                Part::Distance => chosen.gamma = 0.0,
                Part::Anchor => chosen.anchor_weight = 0.0,
                Part::Whitening => chosen.whitening = 0.0,
            }
        }
        chosen
    }

    /// Of joint training, how many times the steps of the others it takes; none where domains come
    /// one after the other.
    pub fn joint(self) -> Option<u64> {
        match self.way() {
            Way::Joint(times) => Some(times),
            Way::InTurn | Way::AsPublished | Way::Reptile => None,
        }
    }

    /// The method that tables and plots call so.
    pub fn titled(title: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|method| method.title() == title)
    }
}

impl FromStr for Method {
    type Err = SettingsError;

    fn from_str(word: &str) -> Result<Self, SettingsError> {
        let words: Vec<&str> = Self::ALL.iter().map(|method| method.word()).collect();
        let found = Self::ALL.iter().copied().find(|method| method.word() == word);
        found.ok_or_else(|| range("methods", &words.join(", "), word))
    }
}

/// Makes [`Method`] and what is known of each from one table.
macro_rules! methods {
    ($($(#[doc = $doc:literal])+ $method:ident = $word:literal, $title:literal, $way:expr, $off:expr;)+) => {
        /// The ways of learning that a stream compares; each is the same step under other settings.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Method { $($(#[doc = $doc])+ $method,)+ }

        impl Method {
            /// Every method, in the order of the tables.
            pub const ALL: &'static [Self] = &[$(Self::$method,)+];

            /// Its name on the command line.
            pub fn word(self) -> &'static str {
                match self { $(Self::$method => $word,)+ }
            }

            /// Its name in tables and plots.
            pub fn title(self) -> &'static str {
                match self { $(Self::$method => $title,)+ }
            }

            /// What it is, in a sentence.
            pub fn about(self) -> &'static str {
                match self { $(Self::$method => concat!($($doc),+).trim_ascii(),)+ }
            }

            fn way(self) -> Way {
                match self { $(Self::$method => $way,)+ }
            }

            fn off(self) -> &'static [Part] {
                match self { $(Self::$method => &$off,)+ }
            }
        }
    };
}

use Part::{Anchor, Average, Distance, Replay, Whitening};
use Way::{AsPublished, InTurn, Joint, Reptile};

/// What neither plain LoRA nor training on everything at once has.
const ALL: [Part; 5] = [Replay, Average, Distance, Anchor, Whitening];

methods! {
    /// LoRA on one domain after the other.
    Sequential = "sequential", "sequential LoRA", InTurn, ALL;
    /// Experience replay (ER).
    Replay = "er", "ER", InTurn, [Average, Distance, Anchor, Whitening];
    /// ER, and the slow learner is an average of the fast one.
    ReplayAverage = "er-ema", "ER + EMA", InTurn, [Distance, Anchor, Whitening];
    /// ER whose steps go back towards where they came from (MER, with Reptile every ten steps).
    Mer = "mer", "MER", Reptile, [Distance, Anchor, Whitening];
    /// I-LoRA as its paper describes it: ER, average, and hidden states held close.
    Ilora = "ilora", "I-LoRA", InTurn, [Anchor, Whitening];
    /// I-LoRA, whose A moves in inputs that text of the base's own has whitened.
    Whitened = "whitened", "I-LoRA, whitened", InTurn, [Anchor];
    /// I-LoRA, held to the base on text that the base wrote.
    Anchored = "anchored", "I-LoRA, anchored", InTurn, [Whitening];
    /// The default: I-LoRA, whitened and anchored.
    Sapwood = "sapwood", "Sapwood", InTurn, [];
    /// I-LoRA as its authors' program does it.
    AsPublished = "as-published", "I-LoRA as published", AsPublished, [Anchor, Whitening];
    /// All domains at once, shuffled, with as many blocks a step and steps as the others.
    Joint = "joint", "joint", Joint(1), ALL;
    /// The same for three times the steps.
    JointLong = "joint-long", "joint, 3 x steps", Joint(3), ALL;
}
