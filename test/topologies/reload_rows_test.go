package topologies

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The three sessions of the host on which reloads are tried: an unnumbered one, one
// with an address, and one with a route reflector that belongs to no interface.
const (
	sessionEn1 = "en1"
	sessionEn5 = "en5"
	sessionTop = "top-level peers"
)

func allSessions() []string { return []string{sessionEn1, sessionEn5, sessionTop} }

// reloadRow is what a reload does that changes one key of the configuration.
type reloadRow struct {
	// key is as in docs/configuration.md; with .* at its end all keys below it.
	key string
	// change is where in the tested file, and to what: "vips[0].name=x". Several
	// are separated by blanks, and a value of "-" takes the key away. Empty for a
	// key that is not tried, for which note says why.
	change string
	// flaps are the sessions that end and come back, or that go.
	flaps []string
	// note is for the document.
	note string
}

// reloadRows are the expected flaps for each key. The document docs/reloads.md is
// made of them, and TestLongReloadMatrix tries each.
func reloadRows() []reloadRow {
	const en5, top, vip, check = "interfaces[1].peers[0].", "peers[0].", "vips[0].", "vips[1].checks[0]."
	en5Alone, topAlone := []string{sessionEn5}, []string{sessionTop}
	rows := []reloadRow{
		{"bgp.asn", "bgp.asn=65011", allSessions(), "every OPEN names it"},
		{"bgp.router_id", "bgp.router_id=10.68.5.11", allSessions(), "every OPEN names it"},
		{"bgp.listen_port", "bgp.listen_port=1179", nil, "from the next session on"},
		{"bgp.timers.hold_time", "bgp.timers.hold_time=12s", nil, "from the next session on"},
		{"bgp.timers.keepalive", "bgp.timers.keepalive=2s", nil, "from the next session on"},
		{"bgp.timers.connect_retry", "bgp.timers.connect_retry=2s", nil, "from the next session on"},
		{"bgp.graceful_restart.enabled", "bgp.graceful_restart.enabled=false", allSessions(), "negotiated by OPEN"},
		{"bgp.graceful_restart.restart_time", "bgp.graceful_restart.restart_time=40s", allSessions(), "negotiated by OPEN"},
		{"bgp.graceful_restart.long_lived", "bgp.graceful_restart.long_lived=1h", allSessions(), "negotiated by OPEN"},
		{"bgp.defaults", "bgp.defaults={announce: {med: 9}}", nil, "as the key of the peer that it stands for"},
		{"virtual_interface.name", "virtual_interface.name=vi9", nil, ""},
		{"virtual_interface.kind", "virtual_interface.kind=bridge", nil, "for a device that is made anew"},
		{"interfaces[].name", "interfaces[1]-", en5Alone, "an interface that is no longer listed, or newly; the others stay"},
		{"interfaces[].hold_up", "interfaces[1].hold_up=3s", nil, ""},
		{"interfaces[].gateway", "interfaces[1].gateway=10.68.5.2", nil, ""},
		{"interfaces[].weight", "interfaces[1].weight=3", nil, ""},
		{"interfaces[].gateway_probe.*", "interfaces[1].gateway_probe={enabled: false}", nil, ""},
		{"interfaces[].path_probe.*", "interfaces[1].path_probe={target: 10.68.9.9}", nil, ""},
		{"interfaces[].damping.*", "interfaces[1].damping={enabled: false}", nil, ""},
		{"interfaces[].peers[].address", en5 + "address=10.68.5.3", en5Alone, "another peer: the session with the old one ends"},
		{"interfaces[].peers[].unnumbered", "interfaces[0].peers=[]", []string{sessionEn1}, "another peer: the session with the old one ends"},
		{"interfaces[].peers[].router_id", en5 + "router_id=10.68.5.2", nil, "a session with a router that has another one ends"},
		{"interfaces[].peers[].asn", en5 + "asn=65009", en5Alone, ""},
		{"interfaces[].peers[].port", en5 + "port=1179", nil, "from the next session on"},
		{"interfaces[].peers[].password_file", en5 + "password_file=/etc/vipspeaker/secret", en5Alone, "also when only the content of the file has changed"},
		{"interfaces[].peers[].ttl_security", en5 + "ttl_security=true", en5Alone, "unless the router sends with TTL 255 already"},
		{"interfaces[].peers[].passive", en5 + "passive=true", nil, "from the next session on"},
		{"interfaces[].peers[].families", en5 + "families=ipv4", en5Alone, "negotiated by OPEN"},
		{"interfaces[].peers[].timers.hold_time", en5 + "timers={hold_time: 12s}", nil, "from the next session on"},
		{"interfaces[].peers[].timers.keepalive", en5 + "timers={keepalive: 2s}", nil, "from the next session on"},
		{"interfaces[].peers[].timers.connect_retry", en5 + "timers={connect_retry: 2s}", nil, "from the next session on"},
		{"interfaces[].peers[].bfd.*", en5 + "bfd={min_tx: 50ms}", nil, "the BFD session; the BGP session follows when BFD finds the path dead. Without `bfd`, routers end BGP: see [routers.md](routers.md#taking-bfd-away)"},
		{"interfaces[].peers[].bfd.required", en5 + "bfd={required: true}", en5Alone, "while BFD is not up"},
		{"interfaces[].peers[].announce.*", en5 + "announce={med: 9, prepend: 2, communities: [\"65010:9\"]}", nil, "one UPDATE for each path"},
		{"peers[].address", "peers=[]", topAlone, "another peer: the session with the old one ends"},
		{"peers[].local_address", top + "local_address=10.68.5.1", topAlone, "the connection is from there"},
		{"peers[].ttl", top + "ttl=9", nil, ""},
		{"peers[].add_path", top + "add_path=false", topAlone, "negotiated by OPEN"},
		{"peers[].router_id", top + "router_id=10.255.0.9", nil, "a session with a router that has another one ends"},
		{"vips[].name", vip + "name=other", nil, ""},
		{"vips[].address", vip + "address=10.68.6.9", nil, "announces the new one, withdraws the old one"},
		{"vips[].interfaces", vip + "interfaces=[en5]", nil, "withdraws on the others"},
		{"vips[].preferred_source", vip + "preferred_source=false", nil, ""},
		{"vips[].source.*", vip + "source={rules: [{destinations: [10.68.9.0/24]}]}", nil, ""},
		{"vips[].announce.med", vip + "announce.med=9", nil, "one UPDATE"},
		{"vips[].announce.local_pref", vip + "announce.local_pref=200", nil, "one UPDATE"},
		{"vips[].announce.prepend", vip + "announce.prepend=2", nil, "one UPDATE"},
		{"vips[].announce.origin", vip + "announce.origin=egp", nil, "one UPDATE"},
		{"vips[].announce.communities", vip + "announce.communities=[\"65010:9\"]", nil, "one UPDATE"},
		{"vips[].announce.large_communities", vip + "announce.large_communities=[\"65010:1:9\"]", nil, "one UPDATE"},
		{"vips[].announce.extended_communities", vip + "announce.extended_communities=[\"rt:65010:9\"]", nil, "one UPDATE"},
		{"vips[].mtu", vip + "mtu=1400", nil, ""},
		{"vips[].role.*", vip + "role={rank: 2}", nil, "one UPDATE"},
		{"vips[].exclusive", vip + "exclusive=true", nil, "one UPDATE"},
		{"vips[].drain.*", vip + "drain={time: 3s, med: 9}", nil, "one UPDATE if it is drained now"},
		{"vips[].checks_mode", "vips[1].checks_mode=any", nil, ""},
		{"vips[].on_failure.*", "vips[1].on_failure={degrade: {med: 9}}", nil, ""},
		{"vips[].damping.*", vip + "damping={enabled: false}", nil, ""},
		{"vips[].checks[].name", check + "name=other", nil, ""},
		{"vips[].checks[].interval", check + "interval=300ms", nil, ""},
		{"vips[].checks[].fast_interval", check + "fast_interval=100ms", nil, ""},
		{"vips[].checks[].timeout", check + "timeout=150ms", nil, ""},
		{"vips[].checks[].rise", check + "rise=2", nil, ""},
		{"vips[].checks[].fall", check + "fall=3", nil, ""},
		{"vips[].checks[].source", "vips[1].checks=[{tcp: {address: \"127.0.0.1:9\"}, source: 127.0.0.1}]", nil, "a check that is another one starts anew: the VIP waits for it"},
		{"vips[].checks[].*", "vips[1].checks=[]", nil, "a check that is another one starts anew: the VIP waits for it"},
		{"vips[].on.*", vip + "on={bound: [/usr/bin/true]}", nil, ""},
		{"runtime_vips.*", "runtime_vips={allowed_prefixes: [10.68.8.0/24]}", nil, ""},
		{"damping.*", "damping={half_life: 20s}", nil, ""},
		{"egress.exclude", "egress.exclude=[192.0.2.0/24]", nil, ""},
		{"egress.max_prefixes", "egress.max_prefixes=99", nil, "for what comes from now on"},
		{"egress.import", "egress.import=[0.0.0.0/0]", nil, "what routers have sent is judged anew"},
		{"egress.install", "egress={import: [0.0.0.0/0], install: main}", nil, ""},
		{"egress.metric", "egress={import: [0.0.0.0/0], install: main, metric: 30}", nil, ""},
		{"ownership.*", "", nil, "needs a restart of the daemon"},
		{"host.sysctls", "host.sysctls=check", nil, ""},
		{"http.listen", "", nil, "needs a restart of the daemon"},
		{"control.socket", "", nil, "needs a restart of the daemon"},
		{"shutdown.*", "shutdown={mode: restart}", nil, ""},
		{"log.level", "log.level=debug", nil, ""},
		{"log.format", "", nil, "needs a restart of the daemon"},
	}
	return rows
}

const reloadDocument = "../../docs/reloads.md"

var updateReloads = flag.Bool("update-reloads", false, "write docs/reloads.md")

// TestReloadDocument wants a row for each key of the reference, and the document
// to say what the rows say.
func TestReloadDocument(t *testing.T) {
	rows := reloadRows()
	used := map[string]bool{}
	for _, key := range referenceKeys(t) {
		row, ok := rowFor(rows, key)
		if !ok {
			t.Errorf("%s: no row", key)
		}
		used[row.key] = true
	}
	for _, row := range rows {
		if !used[row.key] {
			t.Errorf("%s: a row for no key", row.key)
		}
		if row.change == "" && row.note == "" {
			t.Errorf("%s: not tried, and not said why", row.key)
		}
	}
	want := reloadText(rows)
	if *updateReloads {
		if err := os.WriteFile(reloadDocument, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(reloadDocument)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("docs/reloads.md (-want +got; go test ./test/topologies -run TestReloadDocument -update-reloads writes it):\n%s", diff)
	}
}

// referenceKeys are the keys that docs/configuration.md has a row for.
func referenceKeys(t *testing.T) (keys []string) {
	t.Helper()
	text, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	about := ""
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		switch {
		case len(cells) <= 3:
			about = ""
		case about == "":
			about = strings.TrimSpace(cells[1])
		case about == "key" && strings.HasPrefix(cells[1], " `"):
			keys = append(keys, strings.Trim(cells[1], " `"))
		}
	}
	if len(keys) < 100 {
		t.Fatalf("only %d keys were found", len(keys))
	}
	return keys
}

// rowFor is the row of a key: its own, else the longest with .* that has it.
func rowFor(rows []reloadRow, key string) (found reloadRow, ok bool) {
	for _, row := range rows {
		parent, all := strings.CutSuffix(row.key, ".*")
		switch {
		case row.key == key:
			return row, true
		case all && (strings.HasPrefix(key, parent+".") || strings.HasPrefix(key, parent+"[]") || key == parent) && len(row.key) > len(found.key):
			found, ok = row, true
		}
	}
	return found, ok
}

// reloadText is the document.
func reloadText(rows []reloadRow) string {
	var b strings.Builder
	b.WriteString(`# What a reload resets

A reload touches nothing that did not change, and resets a session only if its own parameters changed that the two ends agreed on when it came up. The log then says
which (` + "`peer reset`" + `), and so does the Cease that the router gets. All else happens in place. This table is made from a test that changes each key under a running daemon with three
sessions: one unnumbered, one with an address, one with a route reflector.

| key | sessions that flap | |
|---|---|---|
`)
	for _, row := range rows {
		flaps := "none"
		switch {
		case slices.Equal(row.flaps, allSessions()):
			flaps = "**all**"
		case len(row.flaps) > 0:
			flaps = "**its own**"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", row.key, flaps, row.note)
	}
	return b.String()
}
