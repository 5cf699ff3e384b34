// Loads a base model and adapters in llama.cpp and says what each answers to the same prompt.
//
//   node engine.mjs BASE [ADAPTER...]
//
// Prints one JSON object on one line: "" (the base alone) and each ADAPTER -> {"text": …} or {"error": …}.
import { getLlama, LlamaCompletion } from 'node-llama-cpp'

const PROMPT = 'the whe in'
const [base, ...adapters] = process.argv.slice(2)
// One thread: several wait for each other by spinning, which on a busy machine takes ten times as long for a tiny model.
const llama = await getLlama({ gpu: false, build: 'never', logLevel: 'error', progressLogs: false, maxThreads: 1 })
const model = await llama.loadModel({ modelPath: base })

async function answer(adapter) {
  const lora = adapter ? { lora: { adapters: [{ filePath: adapter }] } } : {}
  const context = await model.createContext({ contextSize: 128, threads: 1, ...lora })
  try {
    const completion = new LlamaCompletion({ contextSequence: context.getSequence() })
    return { text: await completion.generateCompletion(PROMPT, { maxTokens: 24, temperature: 0 }) }
  } finally {
    await context.dispose()
  }
}

const answers = {}
for (const adapter of ['', ...adapters]) {
  try {
    answers[adapter] = await answer(adapter)
  } catch (error) {
    answers[adapter] = { error: String(error.message ?? error) }
  }
}
console.log(JSON.stringify(answers))
await llama.dispose()
