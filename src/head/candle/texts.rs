//! Texts abreast, of one length, through all layers on the device.

use super::layer::{Cache, Layer};
use super::weights::Rotary;
use super::{Below, Candle, Factors, HeadError};
use crate::adapter::Adapter;
use candle_core::Tensor;

/// What texts of one adapter have seen: keys and values of every layer.
pub(in crate::head) struct Past(Vec<Cache>);

impl Past {
    /// Bytes that are taken.
    pub(in crate::head) fn bytes(&self) -> u64 {
        self.0.iter().map(Cache::bytes).sum()
    }
}

/// What is kept of some texts.
pub(in crate::head) struct Texts {
    factors: Factors,
    caches: Vec<Cache>,
    rotary: Rotary,
    /// The residual stream after the last layer and the last token, `[texts, D]`.
    last: Option<Tensor>,
}

impl Texts {
    /// What was seen.
    pub(in crate::head) fn seen(&self) -> Past {
        Past(self.caches.clone())
    }

    /// Goes on after the first `tokens` tokens of another's.
    pub(in crate::head) fn after(self, past: &Past, tokens: usize) -> Result<Self, HeadError> {
        let caches = past.0.iter().map(|cache| cache.beginning(tokens));
        Ok(Self { caches: caches.collect::<Result<_, _>>()?, ..self })
    }

    /// Lets go of all but those that stay, of `stays` `[texts]`.
    pub(in crate::head) fn retain(&mut self, stays: &[bool]) -> Result<(), HeadError> {
        let Some(last) = &self.last else { return Ok(()) };
        let places = (0u32..).zip(stays).filter(|(_, stays)| **stays).map(|(place, _)| place);
        let places: Vec<u32> = places.collect();
        let places = Tensor::new(places, last.device())?;
        self.last = Some(last.index_select(&places, 0)?);
        for cache in &mut self.caches {
            cache.keep(&places)?;
        }
        Ok(())
    }
}

impl Candle {
    /// Empty ones of at most `tokens_max` tokens each.
    pub(in crate::head) fn texts(
        &self,
        adapter: Option<&Adapter>,
        tokens_max: usize,
    ) -> Result<Texts, HeadError> {
        let all = 0..self.config.layers;
        let (factors, _) = self.factors(adapter, all.clone(), false)?;
        let caches = all.map(|_| Cache::default()).collect();
        let rotary = Rotary::new(&self.config, tokens_max, &self.device)?;
        Ok(Texts { factors, caches, rotary, last: None })
    }

    /// Goes on with tokens whose embedding is `rows`, of the `shape` `[texts, n, D]`, after `seen` others.
    pub(in crate::head) fn extend(
        &self,
        below: Option<&Below>,
        texts: &mut Texts,
        rows: &[f32],
        (shape, seen): ((usize, usize, usize), usize),
    ) -> Result<(), HeadError> {
        let Texts { factors, caches, rotary, last } = texts;
        let mut x = Tensor::from_slice(rows, shape, &self.device)?;
        let lower = below.into_iter().flat_map(Below::layers);
        let layers = lower.chain(&self.layers).zip(&factors.layers).zip(caches);
        for ((weights, (modules, factors)), cache) in layers {
            let layer = Layer { config: &self.config, weights, rotary, modules, factors };
            x = layer.forward(&x, seen, Some(cache))?;
        }
        *last = Some(x.narrow(1, shape.1 - 1, 1)?.squeeze(1)?);
        Ok(())
    }

    /// The logits `[texts, V]` of the token after the last; none before the first.
    pub(in crate::head) fn next(&self, texts: &Texts) -> Result<Vec<f32>, HeadError> {
        let Some(last) = &texts.last else { return Ok(Vec::new()) };
        Ok(self.normed(last)?.matmul(&self.lm_head)?.flatten_all()?.to_vec1()?)
    }
}
