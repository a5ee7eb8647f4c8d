//! Request and response bodies of the HTTP interface, as OpenAI's clients know them.
