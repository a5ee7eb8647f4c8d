//! What chat templates promise: what is learned is what the assistant said, and the text is transformers'.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use super::spans::Rendered;
use super::*;
use crate::intake::{Example, lines};
use serde_json::json;

const CHATML: &str = "{% for message in messages %}\n\
    {{ '<|' + message['role'] + '|>' + message['content'].strip() + eos_token }}\n\
    {% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";

/// As SmolLM2 and Qwen do: who says nothing of the system gets a default.
const DEFAULT: &str = "{% for m in messages %}{% if loop.first and m.role != 'system' %}\
    [system] You help{{ eos_token }}{% endif %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}\
    {% if add_generation_prompt %}[assistant] {% endif %}";

/// As Mistral's and Gemma's: the system's word stands in the last turn of the user, and a header does not
/// stand in the prompt alone.
const LATE: &str = "{% set ns = namespace(system='') %}{% for m in messages %}{% if m.role == 'system' %}\
    {% set ns.system = m.content %}{% endif %}{% endfor %}{% set last = messages|selectattr('role', 'equalto', 'user')|list|last %}\
    {% for m in messages %}{% if m.role == 'user' %}[INST] {% if m == last and ns.system %}{{ ns.system }}|{% endif %}\
    {{ m.content }} [/INST]{% elif m.role == 'assistant' %} {{ m.content|trim }}</s>{% endif %}{% endfor %}";

fn chat(source: &str) -> Chat {
    let config = json!({"eos_token": {"content": "</s>"}, "bos_token": "<s>"});
    Chat::new(vec![source.to_owned()], &config).unwrap()
}

fn turns(roles: &[(&str, &str)]) -> Talk {
    let turns = roles.iter().map(|(role, content)| Turn::plain(role, content)).collect();
    Talk { turns, ..Talk::default() }
}

fn told(line: &str) -> Talk {
    match lines(line, "a.jsonl").unwrap().pop() {
        Some(Example::Messages(talk)) => talk,
        _ => Talk::default(),
    }
}

fn said(rendered: &Rendered) -> Vec<&str> {
    rendered.answers.iter().map(|span| &rendered.text[span.clone()]).collect()
}

fn learned(source: &str, talk: &Talk) -> Vec<String> {
    let rendered = chat(source).answers(talk, true).unwrap();
    said(&rendered).into_iter().map(str::to_owned).collect()
}

#[test]
fn the_spans_are_what_the_assistant_said_with_its_end_mark() {
    let talk = turns(&[("user", " a "), ("assistant", "b"), ("user", "c"), ("assistant", "d")]);
    let rendered = chat(CHATML).answers(&talk, true).unwrap();
    assert_eq!(rendered.text.lines().count(), 4);
    assert!(rendered.text.starts_with("<|user|>a</s>\n<|assistant|>b</s>\n"));
    assert_eq!(said(&rendered), ["b</s>\n", "d</s>\n"]);
    assert_eq!(rendered.lost, 0);
    let asked = turns(&[("user", "a")]);
    assert!(chat(CHATML).render(&asked, true).unwrap().ends_with("</s>\n<|assistant|>"));
}

#[test]
fn a_talk_that_begins_with_the_assistant_does_not_learn_the_default_system_prompt() {
    let talk = turns(&[("assistant", "hello"), ("user", "hi"), ("assistant", "bye")]);
    assert_eq!(learned(DEFAULT, &talk), ["hello</s>", "bye</s>"]);
    // A template that prompts with nothing of its own does not give its header away either.
    let plain = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}";
    assert_eq!(learned(plain, &talk), ["hello</s>", "bye</s>"]);
}

#[test]
fn turns_that_later_turns_rewrite_are_found_in_the_whole_rendering() {
    let talk = turns(&[
        ("system", "S"),
        ("user", "a"),
        ("assistant", " b "),
        ("user", "c"),
        ("assistant", "d"),
    ]);
    let rendered = chat(LATE).answers(&talk, true).unwrap();
    assert_eq!(rendered.text, "[INST] a [/INST] b</s>[INST] S|c [/INST] d</s>");
    assert_eq!(said(&rendered), ["b</s>", "d</s>"]);
    // Only the last turn of this one ends with a mark: the first has none to learn.
    let ends = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if loop.last %}<end>{% endif %}{% endfor %}";
    assert_eq!(learned(ends, &talk), [" b ", "d<end>"]);
    // Thoughts of earlier turns are left out, as Qwen3's template leaves them out.
    let thinking = "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' and not loop.last %}\
        {{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}<end>{% endfor %}\
        {% if add_generation_prompt %}<assistant>{% endif %}";
    let talk = turns(&[
        ("user", "a"),
        ("assistant", "<think>x</think>b"),
        ("user", "c"),
        ("assistant", "d"),
    ]);
    assert_eq!(learned(thinking, &talk), ["b<end>", "d<end>"]);
}

#[test]
fn a_turn_that_is_left_out_is_counted_and_one_that_hides_is_refused() {
    let forgetful = "{% for m in messages %}{% if m.role == 'assistant' and not loop.last %}[cut]\
        {% else %}[{{ m.role }}]{{ m.content }}{% endif %}{% endfor %}";
    let talk = turns(&[("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]);
    let rendered = chat(forgetful).answers(&talk, true).unwrap();
    assert_eq!((said(&rendered), rendered.lost), (vec!["d"], 1));
    let echo = "{% for m in messages %}{{ m.role }}:{{ m.content }}{{ m.content }};{% endfor %}";
    let refusal = chat(echo).answers(&talk, true).unwrap_err().to_string();
    assert!(refusal.contains("turn 2, of role assistant"), "{refusal}");
    assert!(chat(echo).answers(&talk, false).is_ok(), "without a mask all of it is learned");
}

#[test]
fn what_a_template_marks_is_what_is_learned() {
    let marked = "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}TAG{{ m.content }}END{% else %}\
        {{ m.content }}{% endif %}|{% endfor %}";
    let talk =
        turns(&[("user", "say hi"), ("assistant", "hi there"), ("user", "x"), ("assistant", "")]);
    for (open, close) in [
        ("{% generation %}", "{% endgeneration %}"),
        ("{%generation%}", "{%endgeneration%}"),
        ("{%-   generation -%}", "{%- endgeneration -%}"),
        ("{%+ generation %}", "{%+  endgeneration %}"),
    ] {
        let source = marked.replace("TAG", open).replace("END", close);
        assert_eq!(learned(&source, &talk), ["hi there"], "{open}");
    }
    let talk = told(
        r#"{"messages":[{"role":"assistant","content":"a","weight":0},{"role":"assistant","content":"b"}]}"#,
    );
    let source = marked.replace("TAG", "{% generation %}").replace("END", "{% endgeneration %}");
    assert_eq!(learned(&source, &talk), ["b"]);
    let changed = "{% set x %}{% generation %} a {% endgeneration %}{% endset %}{{ x|length }}";
    let refusal = chat(changed).answers(&talk, true).unwrap_err().to_string();
    assert!(refusal.contains("generation"), "{refusal}");
}

#[test]
fn a_turn_of_no_weight_is_not_learned_with_a_mask_or_without() {
    let talk = told(
        r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"bad","weight":0},{"role":"user","content":"r","train":false},{"role":"assistant","content":"good","weight":1}]}"#,
    );
    assert_eq!(learned(DEFAULT, &talk), ["good</s>"]);
    let rendered = chat(DEFAULT).answers(&talk, false).unwrap();
    let silent: Vec<&str> =
        rendered.silent.iter().map(|span| &rendered.text[span.clone()]).collect();
    assert_eq!(silent, ["bad</s>", "r</s>"]);
}

#[test]
fn calls_of_tools_go_to_the_template_and_are_learned() {
    let tooled = "{% if tools %}{{ tools|tojson }}\n{% endif %}{% for m in messages %}<{{ m.role }}>\
        {% if m.tool_calls %}{% for c in m.tool_calls %}call {{ c.function.name }} {{ c.function.arguments|tojson }}{% endfor %}\
        {% else %}{{ m.content }}{% endif %}<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
    let line = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":null,"tool_calls":[{"type":"function","function":{"name":"f","arguments":{"b":1,"a":"<"}}}]},{"role":"tool","content":"7"},{"role":"assistant","content":"c"}],"tools":[{"type":"function","function":{"name":"f"}}]}"#;
    let talk = told(line);
    let rendered = chat(tooled).answers(&talk, true).unwrap();
    assert_eq!(said(&rendered), [r#"call f {"b": 1, "a": "<"}<end>"#, "c<end>"]);
    assert!(rendered.text.starts_with(r#"[{"type": "function", "function": {"name": "f"}}]"#));
    let refused =
        |source: &str, talk: &Talk| chat(source).render(talk, false).unwrap_err().to_string();
    assert!(refused(DEFAULT, &talk).contains("does not read tools"));
    let calls = Talk { tools: None, ..talk };
    assert!(refused(DEFAULT, &calls).contains("does not read tool_calls"));
    let thought =
        told(r#"{"messages":[{"role":"assistant","content":"a","reasoning_content":"b"}]}"#);
    assert!(refused(DEFAULT, &thought).contains("does not read reasoning_content"));
    let parts = told(r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a"}]}]}"#);
    assert!(refused(DEFAULT, &parts).contains("content that is a list of parts"));
    let reads =
        "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}";
    assert_eq!(chat(reads).render(&parts, false).unwrap(), "a");
}

#[test]
fn a_template_may_raise_name_the_day_and_mark_generations() {
    let none = Talk::default();
    let refusing = chat("{{ raise_exception('roles must alternate') }}");
    assert!(refusing.render(&none, false).unwrap_err().to_string().contains("must alternate"));
    let dated = chat("{{ strftime_now('%d %b %Y') }}{{ tools is none }}");
    assert_eq!(dated.render(&none, false).unwrap(), "26 Jul 2024True");
    let marked = chat("a {%- generation -%} b {% endgeneration %}c");
    assert_eq!(marked.render(&none, false).unwrap(), "ab c");
}

#[test]
fn the_template_is_a_string_or_of_a_list_the_default_and_the_one_for_tools() {
    let list = json!({"chat_template": [
        {"name": "tool_use", "template": "t{{ tools|length }}"}, {"name": "default", "template": "d"}]});
    assert_eq!(templates(&list), ["d", "t{{ tools|length }}"]);
    assert_eq!(templates(&json!({"chat_template": "s"})), ["s"]);
    assert!(templates(&json!({})).is_empty());
    let chat = Chat::new(templates(&list), &json!({})).unwrap();
    assert_eq!(chat.render(&turns(&[("user", "a")]), false).unwrap(), "d");
    let talk = told(r#"{"messages":[{"role":"user","content":"a"}],"tools":[{}]}"#);
    assert_eq!(chat.render(&talk, false).unwrap(), "t1");
}
