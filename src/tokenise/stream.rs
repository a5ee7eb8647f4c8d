//! Tokens of a generation to text as they come, cut only between whole characters.

use super::TokeniseError;
use tokenizers::{
    DecodeStream, DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper,
    PreTokenizerWrapper, Tokenizer,
};

/// Tokens of the prompt that decide how the next one reads: a word, or the bytes of a character.
const CONTEXT_TOKENS: usize = 16;

/// Decodes one token after the other.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    inner: DecodeStream<
        'a,
        ModelWrapper,
        NormalizerWrapper,
        PreTokenizerWrapper,
        PostProcessorWrapper,
        DecoderWrapper,
    >,
    /// The end of the prompt, then what was generated.
    ids: Vec<u32>,
    /// Bytes of their text that were given out, the prompt's included.
    given: usize,
}

impl<'a> TextStream<'a> {
    pub(super) fn after(tokenizer: &'a Tokenizer, prompt: &[u32]) -> Result<Self, TokeniseError> {
        let inner = tokenizer.decode_stream(true);
        let mut stream = Self { tokenizer, inner, ids: Vec::new(), given: 0 };
        for &id in prompt.iter().skip(prompt.len().saturating_sub(CONTEXT_TOKENS)) {
            stream.push(id)?;
        }
        Ok(stream)
    }

    /// The text that this token completes, or none while a character is incomplete.
    ///
    /// # Errors
    /// [`TokeniseError::Text`] when the decoder cannot.
    pub fn push(&mut self, id: u32) -> Result<Option<String>, TokeniseError> {
        self.ids.push(id);
        let text = self.inner.step(id).map_err(TokeniseError::Text)?;
        self.given += text.as_ref().map_or(0, String::len);
        Ok(text)
    }

    /// What is left when the generation stops inside a character; it may hold U+FFFD.
    ///
    /// # Errors
    /// [`TokeniseError::Text`] when the decoder cannot.
    pub fn finish(self) -> Result<Option<String>, TokeniseError> {
        let text = self.tokenizer.decode(&self.ids, true).map_err(TokeniseError::Text)?;
        Ok(text.get(self.given..).filter(|rest| !rest.is_empty()).map(str::to_owned))
    }
}
