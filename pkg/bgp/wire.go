package bgp

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"
)

// The daemon and a speaker process talk in frames: a length of four octets, most
// significant first, and that many octets of JSON, one message. The daemon does
// not trust what it reads: the process may be in a stranger's hands.
const (
	protocolVersion = 4
	maxFrame        = 32 << 20 // a list of 1,000,000 prefixes fits
	pathChunk       = 500      // paths in one message, so that a withdraw never waits long
	maxDownReasons  = 1000     // texts for single peers in one message
)

// message is one frame's content; exactly one field is set.
type message struct {
	Hello *helloMessage `json:"hello,omitempty"`
	// From the daemon.
	Sessions *sessionsMessage `json:"sessions,omitempty"`
	Paths    *pathsMessage    `json:"paths,omitempty"`
	Fence    *fenceMessage    `json:"fence,omitempty"`
	Ping     *pingMessage     `json:"ping,omitempty"`
	Stop     *stopMessage     `json:"stop,omitempty"`
	// From the speaker process.
	Report    *reportMessage    `json:"report,omitempty"`
	Announced *announcedMessage `json:"announced,omitempty"`
	Pong      *pingMessage      `json:"pong,omitempty"`
}

// helloMessage is the first message in each direction.
type helloMessage struct {
	Version    int  `json:"version"`
	Debug      bool `json:"debug,omitempty"`
	Restarting bool `json:"restarting,omitempty"`
	// PingTimeout is how long the process stays without a ping.
	PingTimeout time.Duration `json:"ping_timeout,omitempty"`
}

// sessionsMessage is the whole wanted configuration but its paths. It is small,
// so that the loss of a link never waits behind a long list.
type sessionsMessage struct {
	Seq    uint64        `json:"seq"`
	Config SpeakerConfig `json:"config"`
	// Keys are the passwords of Config.Peers, which encodes none.
	Keys []string `json:"keys,omitempty"`
}

// pathsMessage changes the wanted paths.
type pathsMessage struct {
	Seq    uint64    `json:"seq"`
	Delete []pathKey `json:"delete,omitempty"`
	Set    []Path    `json:"set,omitempty"`
}

type pingMessage struct {
	ID uint64 `json:"id"`
}

type stopMessage struct {
	Mode StopMode `json:"mode"`
	Text string   `json:"text,omitempty"`
}

// reportMessage is the process's state but its list of prefixes, and the last
// message that it has carried out.
type reportMessage struct {
	Seq          uint64       `json:"seq"`
	State        SpeakerState `json:"state"`
	NeedsRestart bool         `json:"needs_restart,omitempty"`
}

type announcedMessage struct {
	Prefixes []netip.Prefix `json:"prefixes"`
}

func newSessionsMessage(seq uint64, cfg SpeakerConfig) *sessionsMessage {
	m := &sessionsMessage{Seq: seq, Config: cfg}
	m.Config.Paths, m.Config.Fence = nil, 0
	m.Config.DownReason, m.Config.DownReasons = ceaseText(cfg.DownReason), boundReasons(cfg.DownReasons)
	for _, p := range cfg.Peers {
		m.Keys = append(m.Keys, string(p.Password))
	}
	return m
}

// boundReasons cuts texts to what a Cease can carry, and leaves out what is
// beyond the number; those peers get the common text.
func boundReasons(in map[netip.Addr]string) map[netip.Addr]string {
	out := make(map[netip.Addr]string, min(len(in), maxDownReasons))
	for a, text := range in {
		if len(out) == maxDownReasons {
			break
		}
		if a.IsValid() && text != "" {
			out[a] = ceaseText(text)
		}
	}
	return out
}

// config returns the configuration with its passwords.
func (m *sessionsMessage) config() (SpeakerConfig, error) {
	if len(m.Keys) != len(m.Config.Peers) {
		return SpeakerConfig{}, fmt.Errorf("message has %d peers and %d keys", len(m.Config.Peers), len(m.Keys))
	}
	cfg := m.Config
	cfg.Peers = slices.Clone(cfg.Peers)
	for i := range cfg.Peers {
		cfg.Peers[i].Password = Secret(m.Keys[i])
	}
	return cfg, nil
}

// writeMessage writes one frame with one call of Write.
func writeMessage(w io.Writer, m message) error {
	body, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	if len(body) > maxFrame {
		return fmt.Errorf("message of %d octets is longer than %d", len(body), maxFrame)
	}
	frame := make([]byte, 4, 4+len(body))
	binary.BigEndian.PutUint32(frame, uint32(len(body))) //nolint:gosec // at most maxFrame
	if _, err := w.Write(append(frame, body...)); err != nil {
		return fmt.Errorf("write message: %w", err)
	}
	return nil
}

// readMessage reads one frame. The error is io.EOF when the other end closed
// the connection between two frames.
func readMessage(r io.Reader) (message, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return message{}, io.EOF
		}
		return message{}, fmt.Errorf("read message: %w", err)
	}
	size := int64(binary.BigEndian.Uint32(head[:]))
	if size > maxFrame {
		return message{}, fmt.Errorf("message of %d octets is longer than %d", size, maxFrame)
	}
	// The buffer grows with what really arrives, not with what was promised.
	var body bytes.Buffer
	if n, err := io.CopyN(&body, r, size); err != nil {
		return message{}, fmt.Errorf("read message: %d of %d octets: %w", n, size, err)
	}
	var m message
	if err := json.Unmarshal(body.Bytes(), &m); err != nil {
		return message{}, fmt.Errorf("decode message: %w", err)
	}
	return m, nil
}
