//! `sapwood-bench fleet`: simulated devices that share what they learned, and how an install treats them.
//!
//! - In: a base, folders of domains, general text. Out: a table, every measurement as a line of JSON, the
//!   front over the ridge as SVG.
//! - The learners, the merge and the refit are the real ones; network, release and trial are left out.
//! - Lines are written as they come and not measured again: a run that is cut off goes on.

mod texts; //  folders         -> blocks of each device
mod device; // blocks          -> learners that moved
mod merge; //  own parts       -> the next global adapter
mod rule; //   global adapter  -> a device that has it
mod way; //    rule, merge, attack
mod play; //   all of these    -> what each round did
mod record; // what was played -> a file of lines, and back
mod report; // lines           -> tables
mod front; //  lines           -> a plot
#[cfg(test)]
mod tests;

use anyhow::{Context, Result, bail, ensure};
use device::Shared;
use fleet_server::aggregate::Rule as Weighing;
use fleet_server::aggregate::attacks::Attack;
use play::{Event, Fleet, Step};
use record::{Record, Setup};
use rule::{Rule, Word};
use sapwood::base;
use sapwood::learner::{Engines, for_base, own_texts};
use sapwood::settings::{Overrides, Settings};
use sapwood::tokenise::Tokeniser;
use std::io::Write;
use std::path::PathBuf;
use texts::{Cut, Texts};
use way::{NO_ATTACK, Way};

/// What a fleet is made of, and what is compared.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Model folder.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// A folder for each domain, with text to learn, to judge by and to test; at least two.
    #[arg(long, value_name = "DIR", num_args = 1.., required = true)]
    domains: Vec<PathBuf>,
    /// General text, which nobody learns: a folder with valid and test.
    #[arg(long, value_name = "DIR")]
    general: PathBuf,
    /// Lines, tables and the plot; what is there of this fleet is not played again.
    #[arg(long, value_name = "DIR", default_value = "target/fleet")]
    out: PathBuf,
    /// Devices; they take the domains in turn.
    #[arg(long, value_name = "N", default_value_t = 8)]
    devices: usize,
    /// Times that everybody learns, sends and installs.
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// Steps of a device in a round.
    #[arg(long, value_name = "N", default_value_t = 40)]
    iters: u64,
    /// How often, each time with other starts and other parts of the domains.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    seeds: u64,
    /// The first of them.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=1_000_000))]
    seed: u64,
    /// How many of them come after what is sent.
    #[arg(long, value_name = "N", default_value_t = 0)]
    late: u64,
    /// Rank of a device's own part.
    #[arg(long, value_name = "N", default_value_t = 16)]
    rank: usize,
    /// Rank of the merged adapter.
    #[arg(long, value_name = "N", default_value_t = 32)]
    global_rank: usize,
    /// How much of the mean is added to the merged adapter.
    #[arg(long, value_name = "NUMBER", default_value_t = 1.0)]
    eta: f64,
    /// Have a judge choose how much, as the server does, on validation text of all domains and general text.
    #[arg(long, conflicts_with = "eta")]
    judge: bool,
    /// Ridges of the refit.
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', default_value = "0.01,0.1,1,10")]
    ridge: Vec<f64>,
    /// Rules of an install; all when left out.
    #[arg(long, value_enum, value_name = "RULES", value_delimiter = ',')]
    rules: Vec<Word>,
    /// How many of the devices, the last ones, are hostile; no score counts them.
    #[arg(long, value_name = "N", default_value_t = 0)]
    hostile: usize,
    /// What they send: none (they are not there), flip, x100, flip-x10, noise, zeros, minus-mean, little,
    /// direction, noisy-direction; without hostile devices none, with them all when left out.
    #[arg(long, value_name = "ATTACKS", value_delimiter = ',')]
    attacks: Vec<String>,
    /// How the server weighs: mean, robust.
    #[arg(long, value_name = "MERGES", value_delimiter = ',', default_value = "mean")]
    merge: Vec<String>,
    /// Most held-out blocks of a domain, and of general text.
    #[arg(long, value_name = "N", default_value_t = 16)]
    eval_blocks: usize,
    /// Threads; 0 is one per core.
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Print the lines, not the tables.
    #[arg(long)]
    json: bool,
}

impl Arguments {
    fn check(&self) -> Result<()> {
        let counts = [
            ("devices", self.devices),
            ("rounds", self.rounds),
            ("eval-blocks", self.eval_blocks),
            ("global-rank", self.global_rank),
        ];
        for (flag, count) in counts {
            ensure!((1..=1_024).contains(&count), "--{flag}: expected 1 to 1024, got {count}");
        }
        ensure!(self.domains.len() > 1, "--domains: expected at least two, got one");
        let above_0 = |number: &f64| number.is_finite() && *number > 0.0;
        let honest = self.devices.saturating_sub(self.hostile);
        ensure!(honest > 0, "--hostile: expected fewer than --devices, got {}", self.hostile);
        ensure!(self.late < self.iters, "--late: expected less than --iters, got {}", self.late);
        let all = self.ridge.iter().chain([&self.eta]).all(above_0);
        ensure!(all, "--ridge and --eta: expected numbers above 0");
        Ok(())
    }

    /// Everything that is to be played.
    fn ways(&self) -> Result<Vec<Way>> {
        let merges = self.merge.iter().map(|name| {
            let known = [Weighing::Mean, Weighing::Robust].into_iter().find(|it| it.name() == name);
            known.with_context(|| format!("--merge: expected mean or robust, got {name:?}"))
        });
        let merges: Vec<Weighing> = merges.collect::<Result<_>>()?;
        let attack = |name: &String| match Attack::from_name(name) {
            None if name == NO_ATTACK => Ok(None),
            None => bail!("--attacks: expected one of {}, got {name:?}", attack_names()),
            attack => {
                ensure!(self.hostile > 0, "--attacks {name}: expected --hostile of at least 1");
                Ok(attack)
            }
        };
        let attacks: Vec<Option<Attack>> = match (self.attacks.is_empty(), self.hostile) {
            (true, 0) => vec![None],
            (true, _) => [None].into_iter().chain(Attack::ALL.map(Some)).collect(),
            (false, _) => self.attacks.iter().map(attack).collect::<Result<_>>()?,
        };
        Ok(Way::all(&self.rules(), &merges, &attacks))
    }

    fn rules(&self) -> Vec<Rule> {
        let all = <Word as clap::ValueEnum>::value_variants();
        let words = if self.rules.is_empty() { all } else { &self.rules };
        Rule::all(words, &self.ridge)
    }

    /// As `tools/bench/stream.sh`, at this rank.
    fn settings(&self, config: &base::Config) -> Result<Settings> {
        let wishes = Overrides {
            iters: Some(self.iters),
            rank: Some(self.rank),
            alpha: Some(2.0 * self.rank as f64),
            batch_size: Some(3),
            replay_batch_size: Some(5),
            max_seq_length: Some(128.min(config.context)),
            threads: Some(self.threads),
            ..Overrides::default()
        };
        Ok(for_base(config, wishes)?)
    }

    fn setup(&self, base: [u8; 32]) -> Setup {
        let names = self.domains.iter().map(|path| path.file_name().unwrap_or_default());
        Setup {
            base: base[..8].iter().map(|byte| format!("{byte:02x}")).collect(),
            domains: names.map(|name| name.to_string_lossy().into_owned()).collect(),
            devices: self.devices,
            hostile: self.hostile,
            rounds: self.rounds,
            iters: self.iters,
            late: self.late,
            ranks: [self.rank, self.global_rank],
            eta: self.eta,
            judged: self.judge,
            eval_blocks: self.eval_blocks,
        }
    }
}

fn attack_names() -> String {
    let names: Vec<&str> =
        std::iter::once(NO_ATTACK).chain(Attack::ALL.map(Attack::name)).collect();
    names.join(", ")
}

/// Plays what is not on record yet and shows all of it.
///
/// # Errors
/// What the library says of the files; a record of another fleet.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    arguments.check()?;
    let config = base::read_config(&arguments.model)?;
    let settings = arguments.settings(&config)?;
    let engines = Engines::load(&arguments.model, &settings)?;
    let mut record = Record::open(&arguments.out, arguments.setup(engines.base.hash()))?;
    let ways = arguments.ways()?;
    let open = |record: &Record, seed: u64| -> Vec<Way> {
        ways.iter().filter(|way| !record.has(seed, &way.title())).cloned().collect()
    };
    let todo: Vec<(u64, Vec<Way>)> = (arguments.seed..arguments.seed + arguments.seeds)
        .map(|seed| (seed, open(&record, seed)))
        .filter(|(_, ways)| !ways.is_empty())
        .collect();
    if !todo.is_empty() {
        play(arguments, &engines, &settings, &todo, &mut record)?;
    }
    let text = report::tables(&record);
    record.write("table.md", &text)?;
    record.write("front.svg", &front::plot(&record))?;
    if !arguments.json {
        write!(std::io::stdout(), "{text}")?;
    }
    Ok(())
}

/// Plays the ways that are open, seed by seed.
fn play(
    arguments: &Arguments,
    engines: &Engines,
    settings: &Settings,
    todo: &[(u64, Vec<Way>)],
    record: &mut Record,
) -> Result<()> {
    let tokeniser = Tokeniser::open(&arguments.model, engines.base.config().vocab)?;
    let cut = Cut {
        tokeniser: &tokeniser,
        tokens: settings.max_seq_length,
        held_out: arguments.eval_blocks,
    };
    let domains = texts::domains(&cut, &arguments.domains)?;
    let general = cut.general(&arguments.general)?;
    let own = own_texts(engines, &tokeniser.opening(), settings, None, &mut || Ok(()))?;
    let (shape, rank) = ([arguments.devices, arguments.rounds], arguments.global_rank);
    for (seed, ways) in todo {
        let texts = Texts::deal(&domains, &general, shape, *seed)?;
        let mut shared = Shared::new(engines, settings, rank, &texts.blocks, &own)?;
        shared.late = arguments.late;
        let mut tell = |event: Event| record.add(event, arguments.json);
        let step = if arguments.judge { Step::Judged } else { Step::Given(arguments.eta) };
        let mut fleet = Fleet::new(shared, &texts, *seed, step, arguments.hostile)?;
        fleet.play(ways, &mut tell)?;
    }
    Ok(())
}
