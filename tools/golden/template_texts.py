"""The templates of templates.py, all written for it: constructs one by one, and whole templates of each manner."""

# Each a line of what templates do with values. `d` is a dictionary, `l` a list.
D = "{% set d = {'b': 1, 'a': [1, 2.5, 'x', none, true], 'c d': {'e': \"it's\"}} %}"
L = "{% set l = ['x', 'it\\'s', 3, -1.0, none, false, [], {}] %}"
C = "{% set c = messages[3].content %}"

SNIPPETS = [
    # Values as text.
    "{{ true }}{{ false }}{{ none }}{{ nothing }}", "{{ True }} {{ None }} {{ False }}", L + "{{ l }}", D + "{{ d }}",
    "{{ 1.0 }} {{ 0.1 }} {{ 1e16 }} {{ 1e15 }} {{ 123456789012345680.0 }} {{ 0.0001 }} {{ 0.00001 }} {{ -2.5 }}",
    "{{ 10 / 4 }} {{ 10 / 5 }} {{ 10 // 4 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 2 ** 10 }} {{ 2 ** -1 }}", "{{ (1, 2) }} {{ (1,) }} {{ () }}",
    "{{ ['a\"b', 'it\\'s', 'both \\' \"', '\\n\\t\\\\', 'é圧🙂'] }}", "{{ ['\\x07'] }}", L + "{{ l ~ 'x' }}", "{{ 1 ~ 2.0 ~ none ~ true }}",
    "{{ messages[0] }}", "{{ messages[1:3] }}", "{{ 'a' 'b' }}", "{{ 'a\\u00e9\\x41\\t|' }}", "{{ '\\d' }}", "{{ \"it's\" }}", "{{ 1_000 }}",
    "{{ [1, [2, (3, 4)], {'k': none}] }}", "{{ {2: 'a', none: 2, true: 3} }}",
    # tojson.
    D + "{{ d | tojson }}", L + "{{ l|tojson }}", "{{ messages[0].content | tojson }}", "{{ '<a href=\"x\">&\\'</a>' | tojson }}",
    D + "{{ d | tojson(indent=4) }}", D + "{{ d|tojson(indent=2, sort_keys=true) }}", D + "{{ d|tojson(separators=(',', ':')) }}",
    D + "{{ d|tojson(separators=(', ', ': '), ensure_ascii=false) }}", "{{ 'é圧🙂\\x7f' | tojson(ensure_ascii=True) }}", "{{ 'é圧🙂' | tojson }}",
    "{{ [] | tojson(indent=2) }}{{ {} | tojson(indent=2) }}", "{{ [[], {'a': {}}] | tojson(indent=1) }}", "{{ {2: 2, true: 3, none: 4, 1.5: 5} | tojson }}",
    "{{ (1, 'a') | tojson }}", "{{ 1.0 | tojson }} {{ 1e20 | tojson }} {{ none | tojson }}", "{{ nothing | tojson }}", "{{ '\\x00\\x1f\\b\\f' | tojson }}",
    "{{ messages | tojson }}", "{{ [1,2] | tojson(indent='\\t') }}", "{{ {'a': 1} | tojson(false) }}", "{{ messages[2:4] | tojson(indent=2) }}",
    # Methods of strings.
    "{{ 'a b c'.split() }}", "{{ ' a  b '.split(' ') }}", "{{ 'a,b,c'.split(',', 1) }}", "{{ 'a,b,c'.rsplit(',', 1) }}", "{{ ' a  b  c '.split(none, 1) }}",
    "{{ ' a  b  c '.rsplit(none, 1) }}", "{{ 'a,b'.split(sep=',', maxsplit=1) }}", "{{ 'a'.split(',') }}", "{{ ''.split() }}{{ ''.split(',') }}", "{{ 'a'.split('') }}",
    "{{ 'a=b=c'.partition('=') }}", "{{ 'a=b=c'.rpartition('=') }}", "{{ 'a'.partition('=') }}{{ 'a'.rpartition('=') }}",
    "{{ 'prefix-x'.removeprefix('prefix-') }}", "{{ 'x.txt'.removesuffix('.txt') }}{{ 'x'.removesuffix('') }}", "{{ '  a '.strip() }}|{{ '\\n a\\t'.lstrip('\\n') }}|{{ 'xxaxx'.rstrip('x') }}",
    "{{ '\\x1c a\\u00a0'.strip() }}|", "{{ 'abab'.replace('a', 'c') }}{{ 'abab'.replace('a', 'c', 1) }}", "{{ 'hello world'.title() }} {{ \"it's a-b\".title() }}", "{{ 'hELLO'.capitalize() }}",
    "{{ 'Ab'.upper() }}{{ 'Ab'.lower() }}{{ 'Ab'.swapcase() }}", "{{ 'abc'.startswith('a') }}{{ 'abc'.startswith(('x', 'ab')) }}{{ 'abc'.endswith('c') }}",
    "{{ 'äbcabc'.find('b') }} {{ 'abc'.find('x') }} {{ 'äbcb'.rfind('b') }} {{ 'abcabc'.find('b', 2) }}", "{{ 'abc'.index('c') }}", "{{ 'abc'.index('x') }}", "{{ 'aXbXc'.count('X') }} {{ 'aaa'.count('a', 1) }}",
    "{{ 'a\\nb\\r\\nc\\x0bd\\n'.splitlines() }}", "{{ 'a\\nb\\n'.splitlines(true) }}", "{{ 'a'.center(5) }}|{{ 'ab'.center(5, '*') }}|{{ 'a'.ljust(3) }}|{{ 'a'.rjust(3, '.') }}", "{{ '7'.zfill(3) }}{{ '-7'.zfill(4) }}",
    "{{ ', '.join(['a', 'b']) }}", "{{ ','.join([1]) }}", "{{ '{} {}'.format('a', 1) }} {{ '{0}{1}{0}'.format('a', 'b') }} {{ '{x}'.format(x=2) }}", "{{ '{:>5}|{:05.2f}|{:,}'.format('a', 3.14159, 1234567) }}",
    "{{ 'abc'.isalpha() }}{{ '12'.isdigit() }}{{ 'a1'.isalnum() }}{{ ' '.isspace() }}{{ 'A'.isupper() }}{{ 'a'.islower() }}{{ ''.isdigit() }}", "{{ 'a'.nothing() }}", "{{ 'x'.encode() }}",
    C + "{{ c.split('“')[1].split('”')[0] }}", "{{ 'abc'[0] }}{{ 'abc'[-1] }}{{ 'abc'[1:] }}{{ 'abc'[::-1] }}{{ 'abcdef'[1:5:2] }}", "{{ 'abc'[5] }}|", "{{ 'a' * 3 }}{{ [1] * 2 }}", "{{ 'a' in 'abc' }}{{ 'x' not in 'abc' }}",
    "{{ 'ab' + 'c' }}", "{{ 'a' + 1 }}", "{{ 'a' < 'b' }}", "{{ 'a'|upper + 'b' }}",
    # Formatting with %.
    "{{ '%s' % 'x' }}", "{{ '%s-%s' % ('a', 1) }}", "{{ '%d items' % 3 }}", "{{ '%5.2f|%05d|%x' % (3.14159, 42, 255) }}", "{{ '%s' % [1, 'a'] }}", "{{ '%s %s' % ('a', none) }}", "{{ '%(a)s' % {'a': 1} }}", "{{ '100%%' % () }}",
    "{{ '%s' % messages[1].role ~ '!' }}", "{{ '%s' % 1.0 }}", "{{ '%s %s' % 'a' }}", "{{ '%-5s|' % 'ab' }}", "{% set f = '%s!' % 'x' %}{{ f }}", "{{ 7 % 3 }}{{ 7.5 % 2 }}", "{% set f = '%s' %}{{ f % 'x' }}",
    "{{ '%s and %s'|format('a', 2) }}", "{{ '%r' % 'a' }}",
    # Dictionaries and lists.
    D + "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", D + "{{ d.keys()|list }}{{ d.values()|list }}", D + "{{ d.get('a') }}{{ d.get('x') }}{{ d.get('x', 'y') }}", D + "{{ d|items|list }}", D + "{{ d|dictsort }}", D + "{{ d['c d'].e }}",
    D + "{{ 'a' in d }}{{ 'x' in d }}", D + "{{ d.x }}|{{ d['x'] }}|", D + "{{ d.x.y }}", D + "{{ d|length }}", D + "{{ d.update({'z': 1}) }}", L + "{{ l.append(1) }}", L + "{{ l.index('x') }}{{ l.count('x') }}", L + "{{ l|length }}{{ l|first }}{{ l|last }}",
    "{{ dict(a=1, b='x') }}", "{{ dict(b=2, a=1)|tojson }}", "{{ [1, 2] + [3] }}", "{{ [3, 1, 2]|sort }} {{ ['b', 'A', 'c']|sort }} {{ ['b', 'A', 'c']|sort(case_sensitive=true, reverse=true) }}", "{{ [1, 2, 3, 4, 5][1:-1] }}{{ [1, 2, 3][::-1] }}", "{{ [1, 2][7] }}|",
    "{{ messages|map(attribute='role')|join(', ') }}", "{{ messages|map(attribute='nothing', default='-')|join }}", "{{ ['a', 'b']|map('upper')|list }}", "{{ messages|selectattr('role', 'equalto', 'user')|list|length }}", "{{ messages|rejectattr('role', 'in', ['user'])|map(attribute='role')|list }}",
    "{{ messages|selectattr('role', '==', 'system')|first is defined }}", "{{ messages|selectattr('tool_calls', 'defined')|list }}", "{{ messages|selectattr('content')|list|length }}", "{{ [0, 1, 2]|select('odd')|list }}{{ [0, 1, '']|select|list }}{{ [0, 1]|reject|list }}",
    "{{ messages|groupby('role')|map('first')|list }}", "{% for g in messages|groupby('role') %}{{ g.grouper }}:{{ g.list|length }} {% endfor %}", "{{ ['a', 'A', 'b']|unique|list }}", "{{ [1, 2, 3]|sum }}{{ [{'a': 1}, {'a': 2}]|sum(attribute='a') }}", "{{ [1, 5, 2]|max }}{{ [1, 5, 2]|min }}",
    "{{ [1, 2, 3]|batch(2)|list }}{{ [1, 2, 3]|batch(2, 0)|list }}", "{{ [1, 2, 3]|slice(2)|list }}", "{{ [1, 2]|reverse|list }}{{ 'abc'|reverse }}", "{{ 'abc'|list }}", "{{ (1, 2)|list }}", "{{ range(3)|list }}{{ range(5, 1, -2)|list }}", "{{ range(3) }}",
    "{{ messages == messages }}{{ [1] == [1] }}{{ {'a': 1} == {'a': 1} }}", "{{ [1, 2]|join('-') }}", "{{ [1, none, 2.0, true]|join(',') }}", "{{ messages|join('|', attribute='role') }}",
    # Filters of text and numbers.
    "{{ ' a '|trim }}|{{ 'xax'|trim('x') }}", "{{ 'hello wORLD'|title }}{{ 'hELLO'|capitalize }}{{ 'a'|upper }}{{ 'A'|lower }}", "{{ 'one two  three'|wordcount }}{{ \"it's 圧力\"|wordcount }}", "{{ 'a'|center(5) }}|{{ 'ab'|center(5) }}|", "{{ 'x'|center }}|",
    "{{ 'one two three four'|truncate(10) }}|{{ 'one two three four'|truncate(10, true) }}|{{ 'one two three'|truncate(9, false, '…', 0) }}", "{{ 'abcdefghij'|truncate(length=6, killwords=true, end='..', leeway=0) }}",
    "{{ 'a\\nb\\n\\nc'|indent }}|{{ 'a\\nb'|indent(2, true) }}|{{ 'a\\n\\nb'|indent(width=2, blank=true) }}", "{{ 'a\\nb'|indent('> ') }}", "{{ 'a b'|replace(' ', '_') }}{{ 'aaa'|replace('a', 'b', 2) }}", "{{ '<a>&\"\\''|escape }}{{ '<'|e }}{{ '<'|safe }}{{ '<'|forceescape }}",
    "{{ '<p>a <b>b</b>  c</p><!-- x -->'|striptags }}", "{{ 'a b&c/é'|urlencode }}{{ {'a b': 'c&d'}|urlencode }}", "{{ {'a': 1, 'b': none, 'c': '<'}|xmlattr }}", "{{ 1000|filesizeformat }} {{ 1500000|filesizeformat }} {{ 1024|filesizeformat(true) }} {{ 1|filesizeformat }}",
    "{{ '42'|int }}{{ 'x'|int }}{{ 'x'|int(7) }}{{ '3.9'|int }}{{ 3.9|int }}{{ -3.9|int }}{{ none|int }}{{ '0x1f'|int(0, 16) }}{{ true|int }}", "{{ '1.5'|float }}{{ 'x'|float }}{{ 2|float }}{{ none|float }}", "{{ 2.5|round }}{{ 3.14159|round(2) }}{{ 2.1|round(method='ceil') }}{{ 2.7|round(0, 'floor')|int }}", "{{ -3|abs }}{{ -2.5|abs }}",
    "{{ nothing|default('x') }}{{ ''|default('x') }}{{ ''|default('x', true) }}{{ none|d('x') }}{{ none|d('x', boolean=true) }}", "{{ 5|string + 'a' }}{{ [1, 'a']|string }}{{ none|string }}", "{{ messages[1]|attr('role') }}|", "{{ 'abc'|first }}{{ 'abc'|last }}{{ 'abc'|length }}{{ 'abc'|count }}",
    "{{ {'a': 1}|pprint }}", "{{ 'a'|wordwrap(1) }}", "{{ 'http://a.b'|urlize }}", "{{ [1]|random }}", "{{ 'a'|nothing }}", "{{ 'a b'|split }}", "{{ 'a'|lines }}", "{{ 1|bool }}", "{{ [1]|zip([2])|list }}", "{{ [1]|chain([2])|list }}", "{% filter upper %}a{{ 'b' }}{% endfilter %}",
    # Tests.
    "{{ 1 is number }}{{ true is number }}{{ '1' is number }}{{ 1 is integer }}{{ true is integer }}{{ 1.0 is float }}", "{{ 'a' is string }}{{ [] is sequence }}{{ 'a' is sequence }}{{ {} is sequence }}{{ 'a' is iterable }}{{ {} is mapping }}{{ [] is mapping }}{{ 1 is iterable }}",
    "{{ nothing is defined }}{{ none is defined }}{{ nothing is undefined }}{{ none is none }}{{ nothing is none }}", "{{ 3 is odd }}{{ 4 is even }}{{ 9 is divisibleby 3 }}{{ 9 is divisibleby(2) }}", "{{ 'a' is lower }}{{ 'A' is upper }}", "{{ true is true }}{{ 1 is true }}{{ false is false }}{{ true is boolean }}",
    "{{ 1 is eq 1 }}{{ 1 is sameas 1 }}{{ 'a' is in ['a'] }}{{ 1 is ne 2 }}{{ 1 is lt 2 }}{{ 2 is ge 2 }}", "{{ messages[0].role is not defined }}{{ not nothing }}", "{{ range is callable }}{{ 'a' is callable }}", "{{ 'upper' is filter }}{{ 'nothing' is filter }}{{ 'odd' is test }}", "{{ 'a' is startingwith 'a' }}", "{{ 'x' is nothing }}",
    # Statements.
    "{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }};{% endfor %}", "{% for m in messages %}{{ loop.previtem.role }}<{{ m.role }}>{{ loop.nextitem.role }} {% endfor %}", "{% for m in messages %}{{ loop.cycle('a', 'b') }}{{ loop.changed(m.role) }}{% endfor %}",
    "{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ m.role }}{% else %}none{% endfor %}", "{% for m in [] %}x{% else %}none{% endfor %}", "{% for m in messages %}{% if loop.index == 2 %}{% continue %}{% elif loop.index == 4 %}{% break %}{% endif %}{{ m.role }} {% endfor %}", "{% for k in {'a': 1} %}{{ k }}{% endfor %}", "{% for c in 'ab' %}{{ c }}-{% endfor %}", "{% for a, b in [(1, 2), [3, 4]] %}{{ a }}{{ b }} {% endfor %}", "{% for x in nothing %}x{% endfor %}|", "{% for x in none %}x{% endfor %}|",
    "{% for x in [1, [2, 3]] recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}{{ loop.depth }}{% endif %}{% endfor %}", "{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{% endfor %}{{ x }}", "{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}", "{% set ns = namespace(x=1, l=[]) %}{% for i in [1, 2] %}{% set ns.x = ns.x + i %}{% set ns.l = ns.l + [i] %}{% endfor %}{{ ns.x }}{{ ns.l }}", "{% set ns = namespace() %}{{ ns.x is defined }}{{ ns.x }}|",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set x %}a{{ 1 }}b{% endset %}{{ x|upper }}", "{% set x | upper %}a{% endset %}{{ x }}", "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a }}|", "{% macro f(a, b='x', c=none) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ f(1) }} {{ f(1, c=2) }} {{ f(b=3, a=4) }}", "{% macro f(a) %}[{{ a }}{{ caller() }}]{% endmacro %}{% call f(1) %}in{% endcall %}", "{% macro f() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, a=3) }}", "{% macro f(n) %}{{ n }}{% if n %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}", "{% macro f() %}{{ messages|length }}{% endmacro %}{{ f() }}", "{% macro f() %}  a  {% endmacro %}{{ f()|trim }}|", "{% macro f(a) %}{{ a }}{% endmacro %}{{ f() }}|{{ f.name }}",
    "{% if messages and messages[0].role == 'system' %}s{% elif true %}e{% else %}n{% endif %}", "{{ 'a' if true else 'b' }}{{ 'a' if false }}|", "{{ (1 if messages else 2) + 1 }}", "{{ not true or false and true }}{{ 1 < 2 < 3 }}{{ 1 == 1.0 }}{{ '1' == 1 }}{{ none == false }}", "{{ nothing or 'x' }}{{ '' or 'y' }}{{ 'a' and 'b' }}{{ [] and 1 }}", "{% raw %}{{ x }}{% generation %}{% endraw %}", "{# a {{ b }} #}c", "{%- if true -%}  a  {%- endif -%}  b", "a\n  {% if true %}\n  b\n  {% endif %}\nc\n", "  {{- 'a' -}}  b", "a {%+ if true %} b{% endif +%} \n c", "{{ 'a' -}}\n  b\n{{- 'c' }}", "a\n\n", "{% if true %}\n\na{% endif %}", "{%- set x = 1 %}\n{{- x }}", "\n{% set x = 1 %}\n{{ x }}",
    "{% do [1].append(2) %}", "{% nothing %}", "{{ 1 + }}", "{% if true %}a", "{{ messages[9].role }}", "{{ messages[0]['nothing'] }}|", "{% include 'x' %}", "{% print 'a' %}", "{% block a %}x{% endblock %}", "{% autoescape true %}{{ '<' }}{% endautoescape %}", "{{ 1 / 0 }}", "{{ 'a'.__class__ }}|", "{{ self.x }}|",
    # Functions.
    "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.reset() }}{{ c.next() }}", "{% set j = joiner(', ') %}{% for i in [1, 2, 3] %}{{ j() }}{{ i }}{% endfor %}", "{{ raise_exception('no') }}", "{% if messages|length > 99 %}{{ raise_exception('no') }}{% endif %}ok", "{{ strftime_now('%d %b %Y') }}", "{{ strftime_now('%Y-%m-%d %H:%M:%S %A %B %j %p %I %y %a %-d %e') }}", "{{ strftime_now('%B %d, %Y') if strftime_now is defined else 'x' }}", "{{ namespace(a=1).a }}", "{{ debug() }}", "{{ range(0, 5, 2)|list }}{{ range(0) | list }}",
    # What the assistant says.
    "{% for m in messages %}{% if m.role == 'assistant' %}<{% generation %}{{ m.content }}{% endgeneration %}>{% else %}{{ m.content }}{% endif %}{% endfor %}", "{%- for m in messages -%}{%-generation-%} {{ m.role }} {%- endgeneration -%}{%- endfor -%}", "a\n{% generation %}\n  b\n{% endgeneration %}\nc", "{% generation %}{% set x = 1 %}{{ x }}{% endgeneration %}", "{% for m in messages %}{% generation %}{{ loop.index }}{{ m.role }}{% endgeneration %}{% endfor %}", "{% generation %}{% endgeneration %}x",
]

# What Jinja2 does and Sapwood refuses, with a word that the refusal names.
UNSUPPORTED = {
    "{{ 'a'|wordwrap(1) }}": "wordwrap", "{{ 'http://a.b'|urlize }}": "urlize", "{{ [1]|random }}": "random",
    "{% macro f() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, a=3) }}": "too many arguments", "{% print 'a' %}": "print",
    "{% autoescape true %}{{ '<' }}{% endautoescape %}": "autoescape", "{{ self.x }}|": "self",
    "{{ 'x'.encode() }}": "encode", "{% set f = '%s' %}{{ f % 'x' }}": "%", "{{ '%r' % 'a' }}": "'r'",
}

# What Sapwood writes otherwise than Jinja2, and nobody's template has.
DIFFERENT = [
    "{{ range(3) }}", "{% for x in none %}x{% endfor %}|",
]

CHATML = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"

TEMPLATES = {
    "chatml": CHATML,
    "default_system": """{%- for m in messages %}
    {%- if loop.first and m.role != 'system' %}{{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{%- endif %}
    {{- '<|im_start|>' ~ m.role ~ '\\n' ~ m.content ~ '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}""",
    # Headers in brackets, a date, tools as text in the first turn of the user, a call as an object.
    "headers": """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{%- endif %}
{%- if messages and messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content']|trim %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set system = "" %}
    {%- set rest = messages %}
{%- endif %}
{{- "<|head|>system<|/head|>\\n\\n" }}
{%- if tools is not none %}{{- "Environment: tools\\n" }}{%- endif %}
{{- "Today: " + date_string + "\\n\\n" + system + "<|eot|>" }}
{%- if tools is not none and rest|length != 0 %}
    {%- set first_user = rest[0]['content']|trim %}
    {%- set rest = rest[1:] %}
    {{- '<|head|>user<|/head|>\\n\\nFunctions:\\n\\n' }}
    {%- for t in tools %}{{- t | tojson(indent=4) }}{{- "\\n\\n" }}{%- endfor %}
    {{- first_user + "<|eot|>" }}
{%- endif %}
{%- for message in rest %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|head|>' + message['role'] + '<|/head|>\\n\\n' + message['content'] | trim + '<|eot|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}{{- raise_exception("One call at once!") }}{%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|head|>assistant<|/head|>\\n\\n' -}}
        {{- '{"name": "' + tool_call.name + '", "parameters": ' }}{{- tool_call.arguments | tojson }}{{- "}<|eot|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|head|>ipython<|/head|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}{{- message.content | tojson }}{%- else %}{{- message.content }}{%- endif %}
        {{- "<|eot|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|head|>assistant<|/head|>\\n\\n' }}{%- endif %}
""",
    # Tools between tags in the system turn, calls between tags, results gathered into a turn of the user, thoughts.
    "tagged": """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- "# Tools\\n<tools>" }}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<result>') and message.content.endswith('</result>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}{%- set content = message.content %}{%- else %}{%- set content = '' %}{%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set thought = '' %}
        {%- if message.reasoning_content is string %}
            {%- set thought = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or (not loop.last and thought)) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}{{- '\\n' }}{%- endif %}
                {%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
                {{- '<call>\\n{"name": "' }}{{- tool_call.name }}{{- '", "arguments": ' }}
                {%- if tool_call.arguments is string %}{{- tool_call.arguments }}{%- else %}{{- tool_call.arguments | tojson }}{%- endif %}
                {{- '}\\n</call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<result>\\n' }}{{- content }}{{- '\\n</result>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}""",
    # Roles must alternate; tools before the last question; ids of calls have nine letters.
    "alternating": """{%- if messages and messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}{%- set loop_messages = messages[1:] %}
{%- else %}{%- set loop_messages = messages %}{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}{{- raise_exception("Roles must alternate user/assistant/...") }}{%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}{{- '"' + key + '": "' + val + '"' }}{%- else %}{{- '"' + key + '": ' + val|tojson }}{%- endif %}
                    {%- if not loop.last %}{{- ", " }}{%- endif %}
                {%- endfor %}
                {{- "}}" }}{%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" }}{%- endif %}
            {%- endfor %}
            {{- "[/TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}{{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}{{- "[INST] " + message["content"] + "[/INST]" }}{%- endif %}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[CALLS] [" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function|tojson %}
            {{- out[:-1] }}
            {%- if not tool_call.id is defined or tool_call.id|length != 8 %}{{- raise_exception("ids have eight letters") }}{%- endif %}
            {{- ', "id": "' + tool_call.id + '"}' }}
            {%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" + eos_token }}{%- endif %}
        {%- endfor %}
    {%- elif message["role"] == "assistant" %}{{- " " + message["content"]|trim + eos_token }}
    {%- elif message["role"] == "tool" %}
        {%- if message.content is defined and message.content.content is defined %}{%- set content = message.content.content %}{%- else %}{%- set content = message.content %}{%- endif %}
        {{- '[RESULTS] {"content": ' + content|string + ", " }}{{- '"call_id": "' + message.tool_call_id + '"}[/RESULTS]' }}
    {%- else %}{{- raise_exception("unknown role") }}{%- endif %}
{%- endfor %}""",
    # The assistant is called model; the system's word stands before the first of the user.
    "renamed": """{{ bos_token }}{%- if messages and messages[0]['role'] == 'system' -%}{%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}{%- set loop_messages = messages[1:] -%}{%- else -%}{%- set first_user_prefix = "" -%}{%- set loop_messages = messages -%}{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}{{ raise_exception("Conversation roles must alternate") }}{%- endif -%}
    {%- if (message['role'] == 'assistant') -%}{%- set role = "model" -%}{%- else -%}{%- set role = message['role'] -%}{%- endif -%}
    {{ '<turn>' + role + '\\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}{{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}{%- if item['type'] == 'image' -%}{{ '<image>' }}{%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}{%- endfor -%}
    {%- else -%}{{ raise_exception("Invalid content type") }}{%- endif -%}
    {{ '<end>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{'<turn>model\\n'}}{%- endif -%}""",
    "pipes": "{% for message in messages %}{% if message['role'] == 'system' and 'tools' in message and message['tools'] is not none %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|tool|>' + message['tools'] + '<|/tool|><|end|>' }}{% else %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}",
    # Macros that write a schema as a signature.
    "macros": """{%- macro kind(p) -%}
{%- set map = {"string": "str", "number": "float", "integer": "int", "boolean": "bool"} -%}
{%- if map[p.type] is defined -%}{{ map[p.type] }}{%- elif p.type == "array" -%}{{ "list[" + kind(p["items"]) + "]" }}{%- else -%}{{ "Any" }}{%- endif -%}
{%- endmacro -%}
{{ bos_token }}{%- for tool in tools or [] %}{% set tool = tool.function %}def {{ tool.name }}(
{%- for name, p in tool.parameters.properties|items -%}{{ name + ": " + kind(p) }}{% if 'enum' in p %} in {{ p.enum }}{% endif %}{% if not loop.last %}, {% endif %}{%- endfor -%}):
    \"\"\"{{ tool.description|default('no word')|replace('"', "'") }}\"\"\"
{% endfor %}{% for m in messages %}{{ m.role|upper }}: {% if m.content %}{{ m.content }}{% endif %}{% for c in m.tool_calls or [] %}{{ c.function.name }}({% if c.function.arguments is mapping %}{% for k, v in c.function.arguments.items() %}{{ k }}={{ v|tojson }}{{ ", " if not loop.last }}{% endfor %}{% else %}**{{ c.function.arguments }}{% endif %}){% endfor %}
{% endfor %}""",
    # Turns, thoughts after a mark, results in an outer list, as DeepSeek's kind.
    "outputs": """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% set ns = namespace(is_first=false, is_tool=false, is_output_first=true, system_prompt='') %}{%- for message in messages %}{%- if message['role'] == 'system' %}{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}{{bos_token}}{{ns.system_prompt}}{%- for message in messages %}{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{'<|User|>' + message['content']}}{%- endif %}{%- if message['role'] == 'assistant' and message['tool_calls'] is defined %}{%- set ns.is_tool = false -%}{%- for tool in message['tool_calls']%}{%- if not ns.is_first %}{{'<|Assistant|><calls><call>' + tool['type'] + '<sep>' + tool['function']['name'] + '\\n```json\\n' + tool['function']['arguments']|tojson + '\\n```</call>'}}{%- set ns.is_first = true -%}{%- else %}{{'\\n<call>' + tool['function']['name'] + '</call>'}}{{'</calls>'}}{%- endif %}{%- endfor %}{%- endif %}{%- if message['role'] == 'assistant' and message['tool_calls'] is not defined %}{%- if ns.is_tool %}{{'</outputs>' + message['content'] + '<eos>'}}{%- set ns.is_tool = false -%}{%- else %}{% set content = message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}{{'<|Assistant|>' + content + '<eos>'}}{%- endif %}{%- endif %}{%- if message['role'] == 'tool' %}{%- set ns.is_tool = true -%}{%- if ns.is_output_first %}{{'<outputs><output>' + message['content'] + '</output>'}}{%- set ns.is_output_first = false %}{%- else %}{{'\\n<output>' + message['content'] + '</output>'}}{%- endif %}{%- endif %}{%- endfor -%}{% if ns.is_tool %}{{'</outputs>'}}{% endif %}{% if add_generation_prompt and not ns.is_tool %}{{'<|Assistant|>'}}{% endif %}""",
    # Roles by name with a marked answer.
    "marked": """{%- for message in messages -%}
  {%- if message.role == 'assistant' -%}
    <|start|>assistant
{%    generation    %}{{ message.content }}{% if message.tool_calls %}{{ message.tool_calls|tojson }}{% endif %}<|end|>{%- endgeneration %}

  {%- else -%}
    <|start|>{{ message.role }}
{{ message.content }}<|end|>
  {%- endif %}
{% endfor %}{%- if add_generation_prompt %}<|start|>assistant
{% endif %}""",
    # A role's own words, documents and tools as JSON in sorted order, a system turn with a date.
    "roles": """{%- if messages and messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}{%- set loop_messages = messages[1:] %}
{%- else %}{%- set system_message = "Date: " + strftime_now('%B %d, %Y') + ".\\n" %}{%- if tools and documents %}{%- set system_message = system_message + "Both." %}{%- elif tools %}{%- set system_message = system_message + "Tools." %}{%- endif %}{%- set loop_messages = messages %}{%- endif %}
{{- '<|start_of_role|>system<|end_of_role|>' + system_message + '<|end_of_text|>\\n' }}
{%- if tools %}{{- '<|start_of_role|>available_tools<|end_of_role|>' }}{{- tools | tojson(indent=4, sort_keys=true) }}{{- '<|end_of_text|>\\n' }}{%- endif %}
{%- for message in loop_messages %}
{{- '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + (message['content'] or '') + '<|end_of_text|>\\n' }}
{%- if loop.last and add_generation_prompt %}{{- '<|start_of_role|>assistant' }}{%- if controls %}{{- ' ' + controls | tojson() }}{%- endif %}{{- '<|end_of_role|>' }}{%- endif %}
{%- endfor %}""",
    # Words of roles through a dictionary, results numbered, as Command R's kind.
    "numbered": """{{ bos_token }}{% set names = {'user': '<|USER|>', 'assistant': '<|CHATBOT|>', 'system': '<|SYSTEM|>'} %}{% for message in messages %}{% if message['role'] in names %}{{ '<|TURN|>' + names[message['role']] + (message.get('content') or '').strip() }}{% for call in message.get('tool_calls', []) %}
{{ {'tool_name': call['function']['name'], 'parameters': call['function']['arguments']}|tojson(indent=4) }}{% endfor %}{{ '<|END|>' }}{% elif message['role']|lower == 'tool' %}{% if loop.previtem is undefined or loop.previtem.role != 'tool' %}{{ '<|TURN|><results>' }}{% endif %}
console: {{ loop.index0 }}
{{ message.content|indent(2, first=true) }}{% if loop.last or loop.nextitem.role != 'tool' %}{{ '</results><|END|>' }}{% endif %}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|TURN|><|CHATBOT|>' }}{% endif %}""",
}
