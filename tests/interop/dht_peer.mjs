// A node, peer, DHT or relay of the official packages, driven line by line: one JSON request {"id", "verb", ...} on stdin, one
// answer {"id", "ok" | "error", "code"} on stdout, and {"event", ...} lines of its own. Byte strings are hex, addresses "host:port".
// It ends when stdin does. dht_peer.py is the same in Python: what one understands, the other does.
import crypto from 'node:crypto'
import readline from 'node:readline'
import createTestnet from '@hyperswarm/testnet'
import relay from 'blind-relay'
import HyperDHT from 'hyperdht'
import Hyperswarm from 'hyperswarm'

const CHUNK_BYTES = 65536
const ACK = Buffer.from([6])

const connections = new Map() // number -> { stream, description, error, echo, receiving, acknowledged }
const servers = new Map() // public key in hex -> server
const sessions = new Map() // topic in hex -> discovery session
const closing = [] // what `close` ends after the node
let dht = null
let swarm = null
let greeting = null // written to every new connection

const hex = (buffer) => (buffer ? Buffer.from(buffer).toString('hex') : null)
const bytes = (text) => (text == null ? undefined : Buffer.from(text, 'hex'))
const address = ({ host, port }) => `${host}:${port}`
const parse = (text) => ({ host: text.split(':')[0], port: Number(text.split(':')[1]) })
const keyPairOf = (seed) => (seed == null ? undefined : HyperDHT.keyPair(bytes(seed)))
const defined = (options) => Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined))
const say = (message) => process.stdout.write(JSON.stringify(message) + '\n')
const emit = (event, fields = {}) => say({ event, at: performance.now() / 1000, ...fields })

// ---------------------------------------------------------------- connections

function add (stream, topics = []) {
  const conn = connections.size
  const state = { stream, error: null, echo: false, receiving: null, acknowledged: null }
  connections.set(conn, state)
  stream.on('data', (data) => ondata(conn, state, data))
  stream.on('error', (error) => (state.error = error))
  stream.on('end', () => {
    emit('end', { conn })
    stream.end()
  })
  stream.on('close', () => emit('closed', { conn, code: state.error?.code ?? null, message: state.error?.message ?? null }))
  state.description = {
    conn,
    publicKey: hex(stream.publicKey),
    remotePublicKey: hex(stream.remotePublicKey),
    handshakeHash: hex(stream.handshakeHash),
    isInitiator: stream.isInitiator,
    topics: topics.map(hex)
  }
  if (greeting !== null) stream.write(greeting)
  return state.description
}

function ondata (conn, state, data) {
  if (state.receiving !== null) return state.receiving(data)
  if (state.acknowledged !== null) return state.acknowledged()
  if (state.echo) state.stream.write(data)
  else emit('data', { conn, hex: hex(data) })
}

const streamOf = (conn) => connections.get(conn).stream

function opened (stream) {
  return new Promise((resolve, reject) => {
    stream.once('open', () => resolve(add(stream)))
    stream.once('error', reject)
    stream.once('close', () => reject(new Error('closed before it was open')))
  })
}

// ---------------------------------------------------------------- bulk data

function meter () {
  const start = process.hrtime.bigint()
  const cpu = process.cpuUsage()
  return () => {
    const used = process.cpuUsage(cpu)
    return { seconds: Number(process.hrtime.bigint() - start) / 1e9, cpu: (used.user + used.system) / 1e6 }
  }
}

function receive ({ conn, bytes: left, hash = true }) {
  const state = connections.get(conn)
  const digest = hash ? crypto.createHash('sha256') : null
  const stop = meter()
  let first = null
  return new Promise((resolve) => {
    state.receiving = (data) => {
      first ??= meter()
      digest?.update(data)
      left -= data.byteLength
      if (left > 0) return
      state.receiving = null
      state.stream.write(ACK)
      resolve({ ...stop(), seconds: first().seconds, sha256: digest?.digest('hex') ?? null })
    }
    state.stream.once('close', () => resolve({ closed: true, left }))
  })
}

async function send ({ conn, bytes: left, hash = true, chunk = CHUNK_BYTES }) {
  const state = connections.get(conn)
  const digest = hash ? crypto.createHash('sha256') : null
  const block = crypto.randomBytes(chunk)
  const acknowledged = new Promise((resolve, reject) => {
    state.acknowledged = resolve
    state.stream.once('close', () => reject(new Error('closed while sending')))
  })
  acknowledged.catch(() => {})
  const stop = meter()
  for (let number = 0; left > 0; number++) {
    let message = left < chunk ? block.subarray(0, left) : block
    if (hash) {
      message = Buffer.from(message) // the stream still holds the one before
      message.writeUInt32LE(number, 0)
      digest.update(message)
    }
    left -= message.byteLength
    if (!state.stream.write(message)) {
      await new Promise((resolve) => {
        state.stream.once('drain', resolve)
        state.stream.once('close', resolve)
      })
    }
    if (state.stream.destroyed) break
  }
  await acknowledged
  state.acknowledged = null
  return { ...stop(), sha256: digest?.digest('hex') ?? null }
}

// ---------------------------------------------------------------- nodes

// `firewalled: true` means for ever here; the official one may find out otherwise.
function nodeOptions ({ seed, keepAlive, firewalled, ...rest }) {
  const quickFirewall = firewalled === true ? false : undefined
  return defined({ ...rest, firewalled, quickFirewall, seed: bytes(seed), connectionKeepAlive: keepAlive })
}

async function init ({ kind = 'dht', seed, maxPeers, relayThrough, backoffs, greet, host = '127.0.0.1', ...options }) {
  greeting = bytes(greet) ?? null
  dht = new HyperDHT(nodeOptions({ seed, host, ...options }))
  dht.on('persistent', () => emit('persistent'))
  if (kind === 'swarm') {
    swarm = new Hyperswarm(defined({ dht, keyPair: keyPairOf(seed), maxPeers, backoffs, relayThrough: bytes(relayThrough) }))
    swarm.on('connection', (stream, info) => emit('connection', add(stream, info.topics)))
    swarm.on('update', () => emit('update', { connections: swarm.connections.size, connecting: swarm.connecting }))
  }
  await dht.fullyBootstrapped()
  return info()
}

function info () {
  return {
    publicKey: hex(swarm ? swarm.keyPair.publicKey : dht.defaultKeyPair.publicKey),
    local: address(dht.io.serverSocket.address()),
    public: dht.host === null ? null : address(dht),
    remote: dht.remoteAddress() === null ? null : address(dht.remoteAddress()),
    firewalled: dht.firewalled,
    ephemeral: dht.ephemeral,
    randomized: dht.randomized
  }
}

async function testnet ({ size = 5, hosts, port = 0 }) {
  if (hosts === undefined) {
    const net = await createTestnet(size)
    closing.push(net)
    return { bootstrap: net.bootstrap.map(address) }
  }
  const bootstrap = []
  for (const host of hosts) {
    const node = new HyperDHT({ bootstrap: [...bootstrap], ephemeral: false, firewalled: false, host, port })
    await node.fullyBootstrapped()
    closing.push(node)
    if (bootstrap.length === 0) bootstrap.push(address(node.io.serverSocket.address()))
  }
  return { bootstrap }
}

async function listen ({ seed, reject = [], relayThrough, ...options }) {
  const server = dht.createServer(
    defined({ ...options, relayThrough: bytes(relayThrough), firewall: (key) => reject.includes(hex(key)) })
  )
  server.on('connection', (stream) => emit('connection', add(stream)))
  await server.listen(keyPairOf(seed))
  servers.set(hex(server.publicKey), server)
  return { publicKey: hex(server.publicKey), relayAddresses: server.relayAddresses.map(address) }
}

async function relayServer () {
  const relaying = new relay.Server({ createStream: (options) => dht.createRawStream({ ...options, framed: true }) })
  const server = dht.createServer((stream) => {
    stream.on('error', () => {})
    relaying.accept(stream, { id: stream.remotePublicKey }).on('error', () => {})
  })
  await server.listen()
  return { publicKey: hex(server.publicKey) }
}

function connect ({ publicKey, seed, relayThrough, relayAddresses, ...options }) {
  const keyPair = keyPairOf(seed)
  return opened(
    dht.connect(
      bytes(publicKey),
      defined({ ...options, keyPair, relayThrough: bytes(relayThrough), relayAddresses: relayAddresses?.map(parse) })
    )
  )
}

async function connectMany ({ publicKey, count, parallel = 1, keep = false, ...options }) {
  const conns = []
  const stop = meter()
  let left = count
  const worker = async () => {
    while (left-- > 0) {
      const { conn } = await connect({ publicKey, seed: hex(crypto.randomBytes(32)), ...options })
      conns.push(conn)
      if (!keep) streamOf(conn).destroy()
    }
  }
  await Promise.all(Array.from({ length: parallel }, worker))
  return { conns, ...stop() }
}

async function peersOf (query) {
  const found = new Map()
  for await (const { peers } of query) {
    for (const { publicKey, relayAddresses } of peers) found.set(hex(publicKey), relayAddresses.map(address))
  }
  return Object.fromEntries(found)
}

async function close ({ force = false } = {}) {
  await (swarm ?? dht)?.destroy({ force })
  for (const each of closing.reverse()) await each.destroy()
}

const verbs = {
  init,
  info,
  testnet,
  listen,
  relayServer,
  connect,
  connectMany,
  send,
  receive,
  close,
  unlisten: ({ publicKey }) => servers.get(publicKey).close(),
  // the DHT
  ping: async ({ to }) => void (await dht.ping(parse(to))),
  closest: async ({ target }) => {
    const query = dht.lookup(bytes(target))
    await query.finished()
    return query.closestNodes.map(address)
  },
  findPeer: async ({ publicKey }) => {
    for await (const _ of dht.findPeer(bytes(publicKey))) return true
    return false
  },
  lookup: ({ topic }) => peersOf(dht.lookup(bytes(topic))),
  announce: async ({ topic, seed }) => {
    const keyPair = keyPairOf(seed) ?? dht.defaultKeyPair
    const relayAddresses = servers.get(hex(keyPair.publicKey))?.relayAddresses
    await dht.announce(bytes(topic), keyPair, relayAddresses).finished()
  },
  unannounce: async ({ topic, seed }) => {
    await dht.unannounce(bytes(topic), keyPairOf(seed) ?? dht.defaultKeyPair)
  },
  immutablePut: async ({ value }) => ({ hash: hex((await dht.immutablePut(bytes(value))).hash) }),
  immutableGet: async ({ hash }) => hex((await dht.immutableGet(bytes(hash)))?.value),
  mutablePut: async ({ seed, value, seq }) => {
    const { publicKey } = await dht.mutablePut(keyPairOf(seed), bytes(value), { seq })
    return { publicKey: hex(publicKey) }
  },
  mutableGet: async ({ publicKey, seq, latest }) => {
    const found = await dht.mutableGet(bytes(publicKey), defined({ seq, latest }))
    return found && { seq: found.seq, value: hex(found.value) }
  },
  // the swarm
  join: async ({ topic, server = true, client = true, flush = true }) => {
    const at = performance.now() / 1000
    const session = swarm.join(bytes(topic), { server, client })
    sessions.set(topic, session)
    if (flush) await session.flushed()
    return { at }
  },
  leave: ({ topic }) => swarm.leave(bytes(topic)),
  flush: () => swarm.flush(),
  joinPeer: ({ publicKey }) => swarm.joinPeer(bytes(publicKey)),
  leavePeer: ({ publicKey }) => swarm.leavePeer(bytes(publicKey)),
  suspend: () => (swarm ?? dht).suspend(),
  resume: () => (swarm ?? dht).resume(),
  // one connection
  write: ({ conn, data }) => void streamOf(conn).write(bytes(data)),
  echo: ({ conn, on = true }) => void (connections.get(conn).echo = on),
  end: ({ conn }) => void streamOf(conn).end(),
  destroy: ({ conn }) => void streamOf(conn).destroy(),
  path: ({ conn }) => {
    const raw = streamOf(conn).rawStream
    const { mtu, rtt, cwnd, retransmits, packetsTransmitted, packetsReceived } = raw
    const remote = address({ host: raw.remoteHost, port: raw.remotePort })
    return { remote, mtu, rtt, cwnd, retransmits, packetsTransmitted, packetsReceived }
  },
  open: () => [...connections.values()].filter(({ stream }) => !stream.destroying).map(({ description }) => description),
  stats: () => {
    const { userCPUTime, systemCPUTime, maxRSS } = process.resourceUsage()
    return { cpu: (userCPUTime + systemCPUTime) / 1e6, peakMb: maxRSS * 1024 / 1e6, punches: dht?.stats.punches }
  },
  kill: () => process.exit(1)
}

process.on('SIGTERM', () => close().finally(() => process.exit(0)))

for await (const line of readline.createInterface({ input: process.stdin })) {
  const { id, verb, ...options } = JSON.parse(line)
  Promise.resolve()
    .then(() => verbs[verb](options))
    .then((ok) => say({ id, ok: ok ?? null }))
    .catch((error) => say({ id, error: error?.message ?? String(error), code: error?.code ?? null }))
}
process.exit(0)
