package main

import (
	"strings"
	"testing"

	"vipspeaker/test/netnstest"
)

// TestCheckNotesTheOwner: a check that passes on the owner only is noted on a host that
// does not own the VIP.
func TestCheckNotesTheOwner(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		const base = `bgp: {asn: 65010, router_id: 10.68.1.1, graceful_restart: {enabled: false}}
interfaces: [{name: en1, peers: [{address: 10.68.1.2, asn: 65001}]}]
vips:
  - {address: 10.68.7.1, checks: [{tcp: {address: "10.68.7.1:80"}}]}
  - address: 10.68.6.1
    exclusive: true
    checks: [{http: {url: "http://10.68.6.1/"}}, {name: near, tcp: {address: "127.0.0.1:80"}}, {listen: {port: 80}}, {name: six, dns: {server: "10.68.6.1:53", query: x., type: A}}]
`
		const ownership = "ownership: {etcd: {endpoints: \"http://192.0.2.1:2379\"}}\n"
		noted := func(text string) string {
			t.Helper()
			r := call(t, "check", write(t, "c.yaml", text))
			if r.Code != exitGood {
				t.Fatalf("%+v", r)
			}
			var paths []string
			for line := range strings.Lines(r.Stderr) {
				fields := strings.SplitN(line, ": ", 5)
				paths = append(paths, fields[2]+"="+fields[3])
			}
			return strings.Join(paths, " ")
		}
		for name, tt := range map[string]struct{ text, want string }{
			"without ownership": {base, ""},
			"with it":           {base + ownership, "vips[1].checks[0].http.url=10.68.6.1 vips[1].checks[3].dns.server=10.68.6.1"},
			"any":               {strings.Replace(base, "    exclusive", "    checks_mode: any\n    exclusive", 1) + ownership, ""},
			"degraded":          {strings.Replace(base, "    exclusive", "    on_failure: {degrade: {med: 5}}\n    exclusive", 1) + ownership, ""},
		} {
			if got := noted(tt.text); got != tt.want {
				t.Errorf("%s: %q, want %q", name, got, tt.want)
			}
		}
		ns.IP("addr add 10.68.6.1/32 dev lo")
		if got := noted(base + ownership); got != "" {
			t.Errorf("on the owner: %q", got)
		}
	})
}
