package main

import (
	"strings"
	"testing"

	"vipspeaker/test/netnstest"

	"github.com/google/go-cmp/cmp"
)

// A peer that no address of its interface reaches is noted, as is an interface
// that is not there; neither makes the file bad.
func TestCheckNotesTheHost(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		t.Helper()
		file := write(t, "good.yaml", `bgp: {asn: 65010, router_id: 10.68.1.1}
interfaces:
  - name: en1
    gateway: [10.68.1.2, "fd68:1::9"]
    path_probe: {target: "2001:db8::1"}
    peers:
      - {address: 10.68.1.2, asn: 65001}
      - {address: 10.68.2.2, asn: 65001}
      - {address: "fd68:1::2", asn: 65001}
  - name: en5
    peers: [{address: 10.68.5.2, asn: 65005}]
vips: [{address: 10.68.6.1}]
`)
		good := file + ": good: 2 interfaces, 1 VIP\n"
		if diff := cmp.Diff(result{exitGood, good, ""}, call(t, "check", file)); diff != "" {
			t.Errorf("on another host:\n%s", diff)
		}
		ns.Veth("en1", "far")
		ns.IP("addr add 10.68.1.1/24 dev en1")
		want := result{exitGood, good, file + ": note: interfaces[0].gateway: fd68:1::9: en1 has no IPv6 address but a link-local one at most here; its probe will fail\n" +
			file + ": note: interfaces[0].path_probe.target: 2001:db8::1: en1 has no IPv6 address but a link-local one at most here; the probe cannot run\n" +
			file + ": note: interfaces[0].peers[1].address: 10.68.2.2: en1 has no address on-link with it here; the session cannot start\n" +
			file + ": note: interfaces[0].peers[2].address: fd68:1::2: en1 has no IPv6 address but a link-local one at most here; the session cannot start\n" +
			file + ": note: interfaces[1].name: en5: does not exist here\n"}
		if diff := cmp.Diff(want, call(t, "check", file)); diff != "" {
			t.Error(diff)
		}
		// The doctor says the same of the host.
		r := call(t, "doctor", "--config", file, "unfit")
		if n := strings.Count(r.Stdout, "warning  unfit: "); n != 5 || r.Code != exitBad ||
			!strings.Contains(r.Stdout, "warning  unfit: interfaces[1].name: en5: does not exist here\n") {
			t.Errorf("doctor: %+v", r)
		}
	})
}
