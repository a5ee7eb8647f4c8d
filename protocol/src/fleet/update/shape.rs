//! Which linear layers an adapter adapts, and how wide they are.

use crate::fleet::request::decimal;
use alloc::format;
use alloc::string::String;

/// The linear layers of a decoder layer; bit i of a set of targets stands for the i-th.
pub const MODULES: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

const PREFIX: &str = "base_model.model.model.layers.";

/// The modules of a cohort: the same linear layers in each of some layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The first adapted layer.
    pub first_layer: u16,
    /// How many layers from there on.
    pub layers: u16,
    /// The adapted linear layers, a bit each in the order of [`MODULES`].
    pub targets: u8,
    /// How many numbers each of [`MODULES`] reads and writes; zeros where it is not adapted.
    pub fans: [[u32; 2]; 7],
}

/// One factor of one module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) layer: u16,
    pub(super) target: usize,
    /// B, not A.
    pub(super) is_b: bool,
}

impl Place {
    /// The place that a tensor's name speaks of, if it is one that [`Place::name`] gives.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (layer, rest) = name.strip_prefix(PREFIX)?.split_once('.')?;
        let layer = decimal(layer).and_then(|layer| u16::try_from(layer).ok())?;
        let (module, factor) = rest.split_once(".lora_")?;
        let target = MODULES.iter().position(|name| *name == module)?;
        let is_b = match factor {
            "A.weight" => false,
            "B.weight" => true,
            _ => return None,
        };
        Some(Self { layer, target, is_b })
    }

    pub(super) fn name(self) -> String {
        let factor = if self.is_b { 'B' } else { 'A' };
        format!("{PREFIX}{}.{}.lora_{factor}.weight", self.layer, MODULES[self.target])
    }

    /// Rank and width of a matrix of this shape: A is [r, in], B is [out, r].
    pub(super) fn sides(self, shape: [u64; 2]) -> (u64, u64) {
        if self.is_b { (shape[1], shape[0]) } else { (shape[0], shape[1]) }
    }

    /// The shape of a matrix of this rank and width.
    pub(super) fn shape(self, rank: u64, width: u64) -> [u64; 2] {
        if self.is_b { [width, rank] } else { [rank, width] }
    }
}

impl Shape {
    /// Every factor of every module, in order.
    pub(super) fn places(&self) -> impl Iterator<Item = Place> + '_ {
        let adapted = |target: &usize| self.targets >> target & 1 == 1;
        let layers = (0..self.layers).filter_map(|layer| self.first_layer.checked_add(layer));
        layers.flat_map(move |layer| {
            (0..MODULES.len())
                .filter(adapted)
                .flat_map(move |target| [false, true].map(|is_b| Place { layer, target, is_b }))
        })
    }

    pub(super) fn has(&self, place: Place) -> bool {
        let layer = place.layer.checked_sub(self.first_layer);
        layer.is_some_and(|layer| layer < self.layers) && self.targets >> place.target & 1 == 1
    }

    pub(super) fn width(&self, place: Place) -> u64 {
        u64::from(self.fans[place.target][usize::from(place.is_b)])
    }
}
