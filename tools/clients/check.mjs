// OpenAI's package for JavaScript against a device that runs: what it can do, and what is refused by name.
import OpenAI, { BadRequestError, NotFoundError } from "openai";
import { VERSION } from "openai/version";
import assert from "node:assert/strict";

const client = new OpenAI({ maxRetries: 0 });
const model = "sapwood";
const messages = [{ role: "user", content: "How warm is the hall?" }];
const room = { type: "object", properties: { room: { enum: ["hall", "cellar"] } }, required: ["room"], additionalProperties: false };
const tools = [{ type: "function", function: { name: "read_heat", description: "Of a room.", parameters: room } }];

const checks = {
    async "models"() {
        const ids = [];
        for await (const one of client.models.list()) ids.push(one.id);
        assert.ok(ids.includes(model));
    },
    async "chat, streamed and whole alike"() {
        const ask = { model, messages, max_tokens: 12, temperature: 0, cache_prompt: false };
        const whole = await client.chat.completions.create(ask);
        let text = "";
        for await (const part of await client.chat.completions.create({ ...ask, stream: true })) {
            text += part.choices[0]?.delta?.content ?? "";
        }
        assert.equal(text, whole.choices[0].message.content);
    },
    async "JSON schema"() {
        const format = { type: "json_schema", json_schema: { name: "room", strict: true, schema: room } };
        const answer = await client.chat.completions.parse({ model, messages, response_format: format, seed: 1 });
        assert.ok(room.properties.room.enum.includes(JSON.parse(answer.choices[0].message.content).room));
    },
    async "tools, forced"() {
        const answer = await client.chat.completions.create({ model, messages, tools, tool_choice: "required", seed: 1 });
        const [call] = answer.choices[0].message.tool_calls;
        assert.equal(answer.choices[0].finish_reason, "tool_calls");
        assert.ok(room.properties.room.enum.includes(JSON.parse(call.function.arguments).room));
    },
    async "tools, a whole run with its results"() {
        const called = [];
        const run = client.chat.completions.runTools({
            model, messages, seed: 4,
            tool_choice: { type: "function", function: { name: "read_heat" } },
            tools: [{ type: "function", function: { ...tools[0].function, parse: JSON.parse,
                function: (given) => { called.push(given.room); return "19"; } } }],
        });
        await run.finalChatCompletion();
        assert.equal(called.length, 1);
    },
    async "tools, streamed"() {
        const stream = client.chat.completions.stream({ model, messages, tools, tool_choice: "required", seed: 2 });
        const answer = await stream.finalChatCompletion();
        JSON.parse(answer.choices[0].message.tool_calls[0].function.arguments);
    },
    async "log probabilities"() {
        const answer = await client.chat.completions.create({ model, messages, max_tokens: 3, logprobs: true, top_logprobs: 2 });
        assert.equal(answer.choices[0].logprobs.content[0].top_logprobs.length, 2);
    },
    async "refused: a picture"() {
        const content = [{ type: "image_url", image_url: { url: "data:image/png;base64,AA==" } }];
        await assert.rejects(client.chat.completions.create({ model, messages: [{ role: "user", content }] }), BadRequestError);
    },
    async "refused: responses"() {
        await assert.rejects(client.responses.create({ model, input: "a" }), NotFoundError);
    },
};

let failed = 0;
for (const [name, check] of Object.entries(checks)) {
    const begun = performance.now();
    let said = "ok";
    try {
        await check();
    } catch (error) {
        said = `FAILED: ${error?.message ?? error}`;
        failed += 1;
    }
    console.log(`openai (npm) ${VERSION} | ${name} | ${said} | ${((performance.now() - begun) / 1000).toFixed(1)} s`);
}
process.exit(failed ? 1 : 0);
