// The official UDX at the other end. Two ways to drive it:
// - line by line: one JSON request {"id", "verb", ...} on stdin, one answer {"id", "ok" | "error"} on stdout, and
//   {"event", "stream", ...} lines of its own. Byte strings are hex. It ends when stdin does.
// - as one end of a transfer, for bench/udx_pair.py: node udx_peer.mjs role=recv|send bytes=N [port=P] [secret=0]
import crypto from 'node:crypto'
import readline from 'node:readline'
import SecretStream from '@hyperswarm/secret-stream'
import UDX from 'udx-native'

const CHUNK = 65536
const RECEIVER_ID = 1
const SENDER_ID = 2
const words = Object.fromEntries(process.argv.slice(2).map((word) => [word.split('=')[0], word.slice(word.indexOf('=') + 1)]))
if (words.role) transfer()
else serve()

// --- one end of a transfer

function transfer () {
  const sends = words.role === 'send'
  const host = words.host ?? '127.0.0.1'
  const [ours, theirs] = sends ? [SENDER_ID, RECEIVER_ID] : [RECEIVER_ID, SENDER_ID]
  const udx = new UDX()
  const socket = udx.createSocket()
  socket.bind(0, host)
  const raw = udx.createStream(ours)
  socket.once('message', (_, from) => {
    raw.connect(socket, theirs, from.port, from.host)
    if (!sends) socket.send(Buffer.from('go'), from.port, from.host)
    const stream = words.secret === '0' ? raw : new SecretStream(sends, raw)
    stream.on('error', () => {})
    if (sends) sendAll(stream, raw)
    else receiveAll(stream, raw)
  })
  if (sends) socket.send(Buffer.from('hi'), Number(words.port), host)
  else console.log('READY ' + JSON.stringify({ port: socket.address().port }))
}

function meter () {
  const start = process.hrtime.bigint()
  const cpu = process.cpuUsage()
  return (bytes, raw) => {
    const wall = Number(process.hrtime.bigint() - start) / 1e9
    const { user, system } = process.cpuUsage(cpu)
    const line = {
      bytes,
      wall,
      mb_s: bytes / 1e6 / wall,
      cpu_s_gb: (user + system) / 1e6 / (bytes / 1e9),
      rss_mb: (process.resourceUsage().maxRSS * 1024) / 1e6,
      rtt: raw.rtt / 1000,
      cwnd: raw.cwnd,
      mtu: raw.mtu,
      packets: raw.packetsTransmitted,
      retransmits: raw.retransmits
    }
    process.stdout.write('RESULT ' + JSON.stringify(line) + '\n', () => setTimeout(() => process.exit(0), 300))
  }
}

async function sendAll (stream, raw) {
  if (stream !== raw) await stream.opened
  const total = Number(words.bytes)
  const chunk = crypto.randomBytes(CHUNK)
  const stop = meter()
  stream.once('data', () => stop(total, raw))
  for (let sent = 0; sent < total; sent += CHUNK) {
    if (!stream.write(chunk)) await new Promise((resolve) => stream.once('drain', resolve))
  }
}

function receiveAll (stream, raw) {
  const total = Number(words.bytes)
  const hash = words.hash === '1' ? crypto.createHash('sha256') : null
  let stop = null
  let got = 0
  if (stream !== raw) stream.opened.then(() => { stop ??= meter() })
  stream.on('data', (data) => {
    stop ??= meter()
    if (hash) hash.update(data)
    got += data.byteLength
    if (got < total) return
    stream.write(Buffer.from('k'))
    stop(got, raw)
  })
}

// --- line by line

function serve () {
  const udx = new UDX()
  const sockets = []
  const streams = new Map()
  const emit = (event, fields = {}) => process.stdout.write(JSON.stringify({ event, ...fields }) + '\n')

  const verbs = {
    open () {
      const socket = udx.createSocket()
      socket.bind(0, '127.0.0.1')
      socket.on('message', (message, { port }) => emit('stray', { socket: sockets.indexOf(socket), data: hex(message), port }))
      sockets.push(socket)
      return { socket: sockets.length - 1, port: socket.address().port }
    },
    // accept: the id of a peer to connect to, wherever its first packet comes from
    create ({ id, accept, firewall = false }) {
      const entry = { stream: null, collecting: null }
      const stream = udx.createStream(id, {
        firewall: (socket, port, host) => {
          emit('firewall', { stream: id, socket: sockets.indexOf(socket), port })
          if (accept !== undefined && !stream.connected) stream.connect(socket, accept, port, host)
          return !(firewall || accept !== undefined)
        }
      })
      entry.stream = stream
      streams.set(id, entry)
      stream.on('data', (data) => ondata(id, entry, data))
      stream.on('message', (data) => emit('message', { stream: id, data: hex(data) }))
      stream.on('end', () => emit('end', { stream: id }))
      stream.on('error', (error) => emit('error', { stream: id, code: error.code ?? error.message }))
      stream.on('close', () => emit('close', { stream: id }))
      return {}
    },
    connect ({ id, socket = 0, remoteId, port }) {
      streams.get(id).stream.connect(sockets[socket], remoteId, port, '127.0.0.1')
      return {}
    },
    changeRemote ({ id, socket = 0, remoteId, port }) {
      return streams.get(id).stream.changeRemote(sockets[socket], remoteId, port, '127.0.0.1').then(() => ({}))
    },
    relay ({ from, to }) {
      streams.get(from).stream.relayTo(streams.get(to).stream)
      return {}
    },
    write ({ id, data }) {
      streams.get(id).stream.write(Buffer.from(data, 'hex'))
      return {}
    },
    async bulk ({ id, count, size }) {
      const { stream } = streams.get(id)
      const hash = crypto.createHash('sha256')
      for (let i = 0; i < count; i++) {
        const chunk = Buffer.alloc(size, i % 251)
        chunk.writeUInt32LE(i, 0)
        hash.update(chunk)
        if (!stream.write(chunk)) await new Promise((resolve) => stream.once('drain', resolve))
      }
      return { sha256: hash.digest('hex') }
    },
    // the next so many bytes are one event
    collect ({ id, size }) {
      streams.get(id).collecting = { hash: crypto.createHash('sha256'), left: size }
      return {}
    },
    send ({ id, data }) {
      return streams.get(id).stream.send(Buffer.from(data, 'hex')).then((sent) => ({ sent }))
    },
    end ({ id }) {
      streams.get(id).stream.end()
      return {}
    },
    destroy ({ id }) {
      streams.get(id).stream.destroy()
      return {}
    },
    pause ({ id }) {
      streams.get(id).stream.pause()
      return {}
    },
    resume ({ id }) {
      streams.get(id).stream.resume()
      return {}
    },
    state ({ id }) {
      const { stream } = streams.get(id)
      return { mtu: stream.mtu, rtt: stream.rtt, cwnd: stream.cwnd, retransmits: stream.retransmits }
    }
  }

  function ondata (id, entry, data) {
    const { collecting } = entry
    if (collecting === null) return emit('data', { stream: id, data: hex(data) })
    collecting.hash.update(data)
    collecting.left -= data.byteLength
    if (collecting.left > 0) return
    entry.collecting = null
    emit('collected', { stream: id, sha256: collecting.hash.digest('hex'), beyond: -collecting.left })
  }

  const lines = readline.createInterface({ input: process.stdin })
  lines.on('close', () => process.exit(0))
  lines.on('line', async (line) => {
    const { id: number, verb, ...rest } = JSON.parse(line)
    const { stream, ...fields } = rest
    const answer = (fields) => process.stdout.write(JSON.stringify({ id: number, ...fields }) + '\n')
    try {
      answer({ ok: await verbs[verb]({ id: stream, ...fields }) })
    } catch (error) {
      answer({ error: error.message })
    }
  })
}

function hex (buffer) {
  return Buffer.from(buffer).toString('hex')
}
