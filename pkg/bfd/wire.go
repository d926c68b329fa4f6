package bfd

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// The daemon and its BFD process talk in frames: a length of four octets, most
// significant first, and that many octets of JSON, one message. Neither side
// trusts the length; what the daemon reads may come from a stranger's hands.
const (
	protocolVersion = 2
	// maxFrame is more than maxSessions of either direction take.
	maxFrame = 32 << 20
	// maxSessions is how many sessions one process runs.
	maxSessions = 20_000
	// maxText is how much of a text of the process is shown.
	maxText = 256
)

// order is a message of the daemon. Every one is a sign of life.
type order struct {
	Version int `json:"version"`
	// Ping is to be answered by the engine, 0 for none.
	Ping  uint64 `json:"ping,omitempty"`
	Debug bool   `json:"debug,omitempty"`
	// Set are the wanted sessions, nil for those that are.
	Set *wireSet `json:"set,omitempty"`
	// Stop has the process say goodbye and end.
	Stop bool `json:"stop,omitempty"`
}

// wireSet is a whole list of wanted sessions. Revision counts the lists.
type wireSet struct {
	Revision uint64        `json:"revision"`
	Sessions []wireSession `json:"sessions"`
}

// wireSession is a session with its key, which SessionConfig does not encode.
type wireSession struct {
	Config SessionConfig `json:"config"`
	Key    []byte        `json:"key,omitempty"`
}

// report is a message of the process: all sessions of a list, in its order.
type report struct {
	Version  int         `json:"version"`
	Pong     uint64      `json:"pong,omitempty"`
	Revision uint64      `json:"revision"`
	Sessions []wireState `json:"sessions"`
}

// wireState is the state of a session. Its own times take the place of those of
// SessionState, which do not cross.
type wireState struct {
	SessionState
	Since, DownSince instant
}

func newWireStates(list []SessionState, c clock) []wireState {
	out := make([]wireState, len(list))
	for i := range list {
		out[i] = wireState{list[i], c.instant(list[i].Since), c.instant(list[i].DownSince)}
	}
	return out
}

func newWireSet(revision uint64, list []wanted) *wireSet {
	out := &wireSet{Revision: revision, Sessions: make([]wireSession, len(list))}
	for i := range list {
		s := wireSession{Config: list[i].cfg}
		if s.Config.Auth != nil {
			s.Key = []byte(s.Config.Auth.Key)
		}
		out.Sessions[i] = s
	}
	return out
}

// configs are the sessions with their keys.
func (s *wireSet) configs() []SessionConfig {
	out := make([]SessionConfig, len(s.Sessions))
	for i := range s.Sessions {
		out[i] = s.Sessions[i].Config
		if out[i].Auth != nil {
			out[i].Auth.Key = Secret(s.Sessions[i].Key)
		}
	}
	return out
}

// writeFrame writes one message with one call of Write.
func writeFrame(w io.Writer, message any) error {
	body, err := json.Marshal(message)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	if len(body) > maxFrame {
		return fmt.Errorf("message of %d octets is longer than %d", len(body), maxFrame)
	}
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body))) //nolint:gosec // at most maxFrame
	if _, err := w.Write(append(frame, body...)); err != nil {
		return fmt.Errorf("write message: %w", err)
	}
	return nil
}

// readFrame reads one message into a new T. The error is io.EOF when the other
// end closed the connection between two messages. It never holds what was read,
// which may be a key.
func readFrame[T order | report](r io.Reader) (*T, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, io.EOF
		}
		return nil, fmt.Errorf("read message: %w", err)
	}
	size := int64(binary.BigEndian.Uint32(head[:]))
	if size > maxFrame {
		return nil, fmt.Errorf("message of %d octets is longer than %d", size, maxFrame)
	}
	// The buffer grows with what really arrives, not with what was promised.
	var body bytes.Buffer
	if n, err := io.CopyN(&body, r, size); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("read message: %d of %d octets: %w", n, size, err)
	}
	m := new(T)
	if err := json.Unmarshal(body.Bytes(), m); err != nil {
		return nil, errors.New("message cannot be decoded")
	}
	return m, nil
}
