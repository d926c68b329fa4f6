//go:build long

package topologies

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// reloadBase is the file on which each reload is one change.
const reloadBase = `
bgp:
  asn: 65010
  router_id: 10.68.5.1
  timers: {hold_time: 9s, keepalive: 3s, connect_retry: 1s}
interfaces:
  - {name: en1, hold_up: 500ms, peers: [{unnumbered: true, asn: 65000}]}
  - {name: en5, hold_up: 500ms, peers: [{address: 10.68.5.2, asn: 65000}]}
peers:
  - {address: 10.255.0.9, asn: internal, local_address: 10.68.255.1, ttl: 8}
vips:
  - {name: vipa, address: 10.68.6.1/32, preferred_source: true, announce: {origin: igp}}
  - {name: vipb, address: 10.68.6.2/32, checks: [{name: fine, exec: {command: [/usr/bin/true]}, interval: 200ms, rise: 1, fall: 1}]}
`

// TestLongReloadMatrix changes each key of the configuration under a running
// daemon and wants exactly the expected sessions to flap.
func TestLongReloadMatrix(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, "fabric-frr")
	host, leaf := l.Node("host"), l.Node("leaf")
	host.Run("ip", "addr", "add", "10.68.255.1/32", "dev", "lo")
	host.Run("ip", "addr", "add", "10.68.1.1/24", "dev", "en1")
	leaf.Run("ip", "addr", "add", "10.68.1.2/24", "dev", "e1")
	leaf.Run("ip", "route", "add", "10.68.255.1/32", "via", "10.68.5.1")
	host.WriteFile("/etc/vipspeaker/secret", "secret\n")
	host.Run("chmod", "600", "/etc/vipspeaker/secret")
	host.WriteFile(lab.ConfigPath, reloadBase)
	m := &reloadMatrix{t: t, host: host, s: lab.StartSpeaker(host, binary(t))}
	m.s.WaitStatus(20*time.Second, "everything is announced", lab.Established)
	for _, row := range reloadRows() {
		if row.change != "" {
			m.try(row)
		}
	}
}

// reloadMatrix tries rows one after the other with one daemon.
type reloadMatrix struct {
	t    *testing.T
	host *lab.Node
	s    *lab.Speaker
}

// try makes one change and takes it back.
func (m *reloadMatrix) try(row reloadRow) {
	m.t.Helper()
	before := m.s.WaitStatus(60*time.Second, "ready for "+row.key, lab.Established)
	m.load(row.key, changed(m.t, row.change))
	if len(row.flaps) > 0 {
		m.s.WaitStatus(30*time.Second, row.key+": sessions flap", func(st *status.Status) error {
			got := flapped(before, st)
			return lab.That(len(got) >= len(row.flaps), "flapped: %v, want %v", got, row.flaps)
		})
	}
	// What should stay has this long to show that it does not.
	var got []string
	end := time.Now().Add(300 * time.Millisecond)
	after := m.s.WaitStatus(20*time.Second, "a moment passes", func(st *status.Status) error {
		got = flapped(before, st)
		return lab.That(time.Now().After(end), "not yet")
	})
	if !slices.Equal(got, row.flaps) {
		m.t.Errorf("%s (%s): sessions that flapped: %v, want %v", row.key, row.change, got, row.flaps)
	}
	m.load(row.key+" taken back", reloadBase)
	// What flaps now is none of the next row's matters.
	m.s.WaitStatus(30*time.Second, row.key+" taken back: the same sessions flap", func(st *status.Status) error {
		got := flapped(after, st)
		for _, name := range row.flaps {
			there := slices.ContainsFunc(after.Peers, func(p status.Peer) bool { return p.Interface == name })
			if there && !slices.Contains(got, name) {
				return fmt.Errorf("flapped: %v, want %v", got, row.flaps)
			}
		}
		return nil
	})
}

func (m *reloadMatrix) load(what, file string) {
	m.t.Helper()
	m.host.WriteFile(lab.ConfigPath, file)
	if out, err := m.s.Command("reload"); err != nil {
		m.t.Fatalf("%s: reload: %v\n%s\n%s", what, err, out, file)
	}
}

// flapped are the sessions that ended between two pictures.
func flapped(before, after *status.Status) (names []string) {
	for i := range before.Peers {
		b := &before.Peers[i]
		at := slices.IndexFunc(after.Peers, func(p status.Peer) bool { return p.Interface == b.Interface })
		if at < 0 || after.Peers[at].Address != b.Address || after.Peers[at].Transitions != b.Transitions || !after.Peers[at].Since.Equal(b.Since) {
			names = append(names, b.Interface)
		}
	}
	return names
}

// changed is reloadBase with the change of a row.
func changed(t *testing.T, change string) string {
	t.Helper()
	var root any
	if err := yaml.Unmarshal([]byte(reloadBase), &root); err != nil {
		t.Fatal(err)
	}
	path, text, isSet := strings.Cut(change, "=")
	var value any
	if isSet {
		if err := yaml.Unmarshal([]byte(text), &value); err != nil {
			t.Fatal(err)
		}
	}
	root, err := put(root, strings.TrimSuffix(path, "-"), value, isSet)
	if err != nil {
		t.Fatalf("%s: %v", change, err)
	}
	out, err := yaml.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// put sets a value in a tree, or takes it away.
func put(node any, path string, value any, isSet bool) (any, error) {
	if path == "" {
		return value, nil
	}
	if inner, ok := strings.CutPrefix(path, "["); ok {
		index, rest, _ := strings.Cut(inner, "]")
		i, err := strconv.Atoi(index)
		list, isList := node.([]any)
		if err != nil || !isList || i >= len(list) {
			return nil, fmt.Errorf("%q: no such element", path)
		}
		if rest == "" && !isSet {
			return slices.Delete(list, i, i+1), nil
		}
		list[i], err = put(list[i], strings.TrimPrefix(rest, "."), value, isSet)
		return list, err
	}
	end := strings.IndexAny(path, ".[")
	if end < 0 {
		end = len(path)
	}
	fields, ok := node.(map[string]any)
	if node == nil {
		fields, ok = map[string]any{}, true
	}
	if !ok {
		return nil, fmt.Errorf("%q: not a section", path)
	}
	var err error
	fields[path[:end]], err = put(fields[path[:end]], strings.TrimPrefix(path[end:], "."), value, isSet)
	return fields, err
}
