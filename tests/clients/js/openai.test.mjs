// The unmodified `openai` package: Chat Completions and Responses.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import OpenAI, { BadRequestError } from 'openai';
import { ANSWER, MODEL, PARAMETERS, QUESTION, SERVER, WEATHER, watchedFetch } from './server.mjs';

const messages = [{ role: 'user', content: QUESTION }];
const { traces, fetch } = watchedFetch();

for (const path of ['', '/v1']) {
  const client = new OpenAI({ baseURL: SERVER + path, apiKey: 'sk-local', maxRetries: 0, fetch });

  test(`${path || 'the root'}: a stream says what the whole answer says`, async () => {
    const asked = { model: MODEL, messages, temperature: 0 };
    const whole = await client.chat.completions.create(asked);
    assert.ok(whole.choices[0].message.reasoning_content);
    let text = '';
    let trace = '';
    let usage = null;
    for await (const chunk of await client.chat.completions.create({
      ...asked,
      stream: true,
      stream_options: { include_usage: true },
    })) {
      text += chunk.choices[0]?.delta.content ?? '';
      trace += chunk.choices[0]?.delta.reasoning_content ?? '';
      usage = chunk.usage ?? usage;
    }
    assert.equal(text, whole.choices[0].message.content);
    assert.equal(trace, whole.choices[0].message.reasoning_content);
    assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
  });

  test(`${path || 'the root'}: thinking can be switched off`, async () => {
    const answer = await client.chat.completions.create({ model: MODEL, messages, thinking: { type: 'disabled' } });
    assert.equal(answer.choices[0].message.reasoning_content, undefined);
    assert.equal(answer.choices[0].finish_reason, 'stop');
  });

  for (const stream of [false, true]) {
    test(`${path || 'the root'}: runTools, ${stream ? 'streamed' : 'whole'}, drops the trace; it is restored`, async () => {
      traces.length = 0;
      const cities = [];
      const runner = client.chat.completions.runTools({
        model: MODEL,
        messages,
        temperature: 0,
        stream,
        tools: [
          {
            type: 'function',
            function: {
              name: 'get_weather',
              description: 'Weather of a city',
              parameters: PARAMETERS,
              parse: JSON.parse,
              function: ({ city }) => {
                cities.push(city);
                return WEATHER;
              },
            },
          },
        ],
      });
      assert.equal(await runner.finalContent(), ANSWER);
      assert.deepEqual(cities, ['Paris']);
      assert.equal(traces.length, 2);
      assert.match(traces[1], /^sent=\d restored=\d missing=0$/);
    });
  }

  test(`${path || 'the root'}: Responses, whole and streamed`, async () => {
    const asked = { model: MODEL, input: QUESTION, temperature: 0 };
    const whole = await client.responses.create(asked);
    assert.equal(whole.status, 'completed');
    assert.ok(whole.output_text);
    const stream = client.responses.stream(asked);
    const kinds = [];
    for await (const event of stream) kinds.push(event.type);
    assert.equal(kinds[0], 'response.created');
    assert.equal(kinds.at(-1), 'response.completed');
    const final = await stream.finalResponse();
    assert.equal(final.output_text, whole.output_text);
    assert.equal(final.usage.output_tokens, whole.usage.output_tokens);
  });

  for (const keepsTrace of [true, false]) {
    test(`${path || 'the root'}: a tool loop over Responses ${keepsTrace ? 'with' : 'without'} the trace`, async () => {
      traces.length = 0;
      const tools = [
        { type: 'function', name: 'get_weather', description: 'Weather of a city', parameters: PARAMETERS, strict: false },
      ];
      const input = [{ role: 'user', content: QUESTION }];
      const first = await client.responses.create({ model: MODEL, input, tools, temperature: 0 });
      const call = first.output.find((item) => item.type === 'function_call');
      assert.deepEqual(JSON.parse(call.arguments), { city: 'Paris' });
      input.push(...first.output.filter((item) => keepsTrace || item.type !== 'reasoning'));
      input.push({ type: 'function_call_output', call_id: call.call_id, output: WEATHER });
      const second = await client.responses.create({ model: MODEL, input, tools, temperature: 0 });
      assert.equal(second.output_text, ANSWER);
      assert.equal(traces[1], keepsTrace ? 'sent=1 restored=0 missing=0' : 'sent=0 restored=1 missing=0');
    });
  }

  test(`${path || 'the root'}: errors are the SDK's own, with the field that is at fault`, async () => {
    await assert.rejects(client.chat.completions.create({ model: MODEL, messages, temperature: 3 }), (error) => {
      assert.ok(error instanceof BadRequestError);
      assert.equal(error.param, 'temperature');
      assert.ok(error.requestID);
      return true;
    });
  });

  test(`${path || 'the root'}: models`, async () => {
    const names = [];
    for await (const model of client.models.list()) names.push(model.id);
    assert.ok(names.includes(MODEL));
  });
}
