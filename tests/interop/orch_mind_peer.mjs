// A peer that behaves as Orch-Mind does, made of the official packages and driven as dht_peer.mjs is: one JSON request
// {"id", "verb", ...} on stdin, one answer {"id", "ok" | "error"} on stdout, and {"event", ...} lines of its own.
//
// What it copies are Orch-Mind's behaviours (docs/orch-mind.md): every write is one JSON text; a second after a peer came, both
// lists are asked for and told; lists are told again every 30 s; a file is pushed without waiting for the other side; a download
// begins with the chunk at index 0, which alone has `metadata`, and ends when as many chunks came as there are.
// Its faults beyond that are switched on with `faults`.
import crypto from 'node:crypto'
import fs from 'node:fs'
import readline from 'node:readline'
import Hyperswarm from 'hyperswarm'

const CHUNK_BYTES = 64 * 1024
const peers = new Map() // first 12 hex of the key -> stream
const shared = new Map() // topic -> { path, info }
const downloads = new Map() // topic -> { chunks, info, total, received }
const counts = {} // message type, or what JSON.parse said nothing of -> number
let swarm = null
let faults = new Set()
let settings = { settle: 1000, sync: 30000, heartbeat: 30000 }

const say = (message) => process.stdout.write(JSON.stringify(message) + '\n')
const emit = (event, fields = {}) => say({ event, ...fields })
const sha256 = (data) => crypto.createHash('sha256').update(data).digest('hex')
const bytes = (text) => Buffer.from(text, 'hex')
const parse = (text) => ({ host: text.split(':')[0], port: Number(text.split(':')[1]) })
const tell = (peer, message) => peer.destroyed || peer.write(JSON.stringify(message))

function list () {
  const data = [...shared.values()].map(({ info }) => info)
  if (!faults.has('topicless')) return { type: 'adapter-list', data }
  const { topic, ...rest } = data[0] ?? { name: 'nobody' }
  return { type: 'adapter-list', data: [null, 'adapter', rest, {}, ...data] }
}

function greet () {
  for (const peer of peers.values()) {
    tell(peer, list())
    tell(peer, { type: 'request-adapter-list', timestamp: Date.now() })
  }
}

const broadcast = () => peers.forEach((peer) => tell(peer, list()))

function onconnection (peer, info) {
  const id = info.publicKey.toString('hex').slice(0, 12)
  peers.set(id, peer)
  const beat = setInterval(() => tell(peer, { type: 'heartbeat', from: 'orch-os-main', timestamp: Date.now() }), settings.heartbeat)
  peer.on('data', (data) => onmessage(peer, data))
  peer.on('error', () => {})
  peer.on('close', () => {
    clearInterval(beat)
    peers.delete(id)
    emit('closed', { peer: id })
  })
  emit('connection', { peer: id, publicKey: info.publicKey.toString('hex'), isInitiator: peer.isInitiator })
  if (faults.has('noise')) peer.write('this is not JSON, but it comes after {') // the first frame must still show who we are
  setTimeout(greet, settings.settle)
}

function onmessage (peer, data) {
  let message
  try {
    message = JSON.parse(data.toString())
  } catch {
    counts.unreadable = (counts.unreadable ?? 0) + 1
    return
  }
  counts[message.type] = (counts[message.type] ?? 0) + 1
  switch (message.type) {
    case 'heartbeat':
      return tell(peer, { type: 'heartbeat-response', from: 'orch-os-main', timestamp: Date.now() })
    case 'heartbeat-response':
      return emit('heartbeat-response')
    case 'adapter-list':
      return emit('list', { adapters: message.adapters ?? message.data })
    case 'request-adapter-list':
      return broadcast()
    case 'adapter-request':
      return sendFile(peer, message.data.topic)
    case 'adapter-chunk':
      return onchunk(message.data)
  }
}

// ---------------------------------------------------------------- sending

function sendFile (peer, topic) {
  const found = shared.get(topic)
  if (!found) return
  const total = Math.ceil(found.info.size / CHUNK_BYTES)
  const pack = (chunk, index) => ({
    type: 'adapter-chunk',
    data: {
      topic,
      chunk: chunk.toString('base64'),
      index,
      total,
      checksum: sha256(chunk),
      metadata: index === 0 ? found.info : undefined
    }
  })
  emit('sending', { topic })
  if (faults.has('shuffle')) return sendShuffled(peer, found, pack)
  let index = 0
  fs.createReadStream(found.path, { highWaterMark: CHUNK_BYTES })
    .on('data', (chunk) => sendChunk(peer, pack(chunk, index), index++))
    .on('end', () => emit('sent', { topic, chunks: index }))
}

function sendShuffled (peer, found, pack) {
  const content = fs.readFileSync(found.path)
  const order = Array.from({ length: Math.ceil(content.length / CHUNK_BYTES) }, (_, index) => index)
  for (let last = order.length - 1; last > 0; last--) {
    const other = crypto.randomInt(last + 1)
    ;[order[last], order[other]] = [order[other], order[last]]
  }
  for (const index of order) sendChunk(peer, pack(content.subarray(index * CHUNK_BYTES, (index + 1) * CHUNK_BYTES), index), index)
}

function sendChunk (peer, message, index) {
  if (faults.has('stop') && index >= 2) return
  if (faults.has('lie') && index === 1) message.data.chunk = crypto.randomBytes(CHUNK_BYTES).toString('base64')
  if (faults.has('swap') && index === 1) {
    const other = crypto.randomBytes(CHUNK_BYTES) // right by its own checksum, and not of the file
    Object.assign(message.data, { chunk: other.toString('base64'), checksum: sha256(other) })
  }
  if (faults.has('unsolicited')) tell(peer, { type: 'adapter-chunk', data: { ...message.data, topic: 'ee'.repeat(32) } })
  if (faults.has('noise') && index % 3 === 0) peer.write(crypto.randomBytes(40))
  tell(peer, message)
  if (faults.has('repeat') && index % 2 === 0) tell(peer, message)
}

// ---------------------------------------------------------------- receiving

function onchunk ({ topic, chunk, index, total, checksum, metadata }) {
  const data = Buffer.from(chunk, 'base64')
  if (sha256(data) !== checksum) return emit('received', { topic, error: 'chunk' })
  if (index === 0 && metadata) downloads.set(topic, { chunks: new Array(total), info: metadata, total, received: 0 })
  const download = downloads.get(topic)
  if (!download) return emit('received', { topic, error: 'no metadata yet' })
  download.chunks[index] = data
  if (++download.received !== download.total) return
  const whole = Buffer.concat(download.chunks)
  downloads.delete(topic)
  if (sha256(whole) !== download.info.checksum) return emit('received', { topic, error: 'file' })
  emit('received', { topic, sha256: sha256(whole), size: whole.length, info: download.info })
}

// ---------------------------------------------------------------- verbs

async function init ({ bootstrap, ...options }) {
  settings = { ...settings, ...options }
  faults = new Set(options.faults ?? [])
  swarm = new Hyperswarm({ bootstrap: bootstrap.map(parse) })
  swarm.on('connection', onconnection)
  setInterval(broadcast, settings.sync)
  return { publicKey: swarm.keyPair.publicKey.toString('hex') }
}

function share ({ path, name, metadata = {}, size, checksum }) {
  const topic = crypto.randomBytes(32).toString('hex')
  const info = {
    name,
    size: size ?? fs.statSync(path).size,
    checksum: checksum ?? sha256(fs.readFileSync(path)),
    topic,
    timestamp: Date.now(),
    metadata: { file_type: 'safetensors', file_path: path, adapter_id: name, status: 'ready', ...metadata }
  }
  shared.set(topic, { path, info })
  broadcast()
  return info
}

const verbs = {
  init,
  share,
  unshare: ({ topic }) => (shared.delete(topic), broadcast()),
  join: async ({ topic }) => void (await swarm.join(bytes(topic), { client: true, server: true }).flushed()),
  ask: () => greet(),
  request: ({ topic }) => peers.forEach((peer) => tell(peer, { type: 'adapter-request', data: { topic } })),
  faults: ({ now }) => void (faults = new Set(now)),
  push: ({ topic }) => peers.forEach((peer) => sendFile(peer, topic)), // to everybody, asked or not
  flood: ({ text, times }) => peers.forEach((peer) => { for (let n = 0; n < times; n++) peer.write(text) }),
  counts: () => counts,
  peers: () => [...peers.keys()],
  close: async () => void (await swarm.destroy())
}

for await (const line of readline.createInterface({ input: process.stdin })) {
  const { id, verb, ...options } = JSON.parse(line)
  Promise.resolve()
    .then(() => verbs[verb](options))
    .then((ok) => say({ id, ok: ok ?? null }))
    .catch((error) => say({ id, error: error?.message ?? String(error), code: error?.code ?? null }))
}
process.exit(0)
