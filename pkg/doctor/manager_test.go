package doctor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vipspeaker/test/netnstest"
)

// put writes a file below the root of the test.
func (l *lab) put(path, text string) {
	l.t.Helper()
	path = filepath.Join(l.in.Root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		l.t.Fatal(err)
	}
}

// programs puts programs of the names first in PATH that note their calls; calls
// returns them.
func (l *lab) programs(names ...string) (calls func() string) {
	l.t.Helper()
	dir := l.t.TempDir()
	log := filepath.Join(dir, "log")
	for _, name := range names {
		script := "#!/bin/sh\necho " + name + ` "$@" >> ` + log + "\n"
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			l.t.Fatal(err)
		}
	}
	l.t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return func() string {
		data, _ := os.ReadFile(log)
		_ = os.Remove(log)
		return string(data)
	}
}

// systemd-networkd with a file for all devices takes the virtual interface too.
func TestNetworkd(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		calls := l.programs("networkctl", "systemctl")
		l.put("/etc/systemd/network/20-all.network", "[Match]\nName=*\n[Network]\nDHCP=yes\n")
		l.clean() // it does not run
		l.put("/run/systemd/netif/state", "")
		foreign := l.finding("networkd-foreign", Warning, "ManageForeignRoutes and ManageForeignRoutingPolicyRules are not off")
		match := l.finding("networkd-match", Bad, "/etc/systemd/network/20-all.network is for vi0 too (Name=*)")
		l.run(&match)
		l.run(&foreign)
		if got := calls(); got != "networkctl reload\nsystemctl restart systemd-networkd\n" {
			t.Errorf("called %q", got)
		}
		for _, f := range []Finding{match, foreign} {
			l.shell(f.Undo)
		}
		_ = calls()
		l.fix()
		if got := calls(); got != "networkctl reload\n" {
			t.Errorf("--fix called %q", got)
		}
	})
}

// A device that is given may be made and set up by the network manager, so that is
// not told to leave it alone.
func TestManagersOfGivenDevice(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		_ = l.programs("networkctl", "nmcli")
		l.in.DeviceKind = "existing"
		const file = "/etc/systemd/network/20-vi0.network"
		l.put("/run/systemd/netif/state", "")
		l.put("/run/NetworkManager/state", "")
		l.put("/etc/systemd/networkd.conf", "[Network]\nManageForeignRoutes=no\nManageForeignRoutingPolicyRules=no\n")
		l.put(file, "[Match]\nName=vi0\n[Network]\nAddress=10.68.99.1/32\n")
		f := l.finding("networkd-match", Bad, file+" is for vi0 too")
		if !strings.Contains(f.Command, "KeepConfiguration=yes") || f.Remedy != ByHand {
			t.Errorf("%s: %s", f.Remedy, f.Command)
		}
		if r, err := Fix(t.Context(), l.in); err != nil || len(r.Fixed) > 0 {
			t.Errorf("--fix took the device from its manager: %+v, %v", r, err)
		}
		l.put(file, "[Match]\nName=vi0\n[Network]\nAddress=10.68.99.1/32\nKeepConfiguration=yes\n")
		l.clean()
	})
}

// Which files are for the virtual interface.
func TestNetworkdMatches(t *testing.T) {
	for text, want := range map[string]bool{
		"[Match]\nName=*":                               true,
		"[Match]\nName=en* vi?":                         true,
		"[Match]\nName=!en*":                            true,
		"[Match]\nName=!vi0 en*":                        false,
		"[Match]\nName=en*":                             false,
		"[Match]\nType=ether":                           true,
		"[Match]\nType=ether\nKind=!*":                  false,
		"[Match]\nName=*\nMACAddress=00:00:5e:00:53:01": false,
		"# [Match]\n#Name=*":                            false,
		"[Network]\nName=*":                             false,
	} {
		path := filepath.Join(t.TempDir(), "x.network")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := readINI(path).matches("vi0"); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

// NetworkManager is told to leave the device alone.
func TestNetworkManager(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		calls := l.programs("nmcli")
		l.put("/run/NetworkManager/devices/1", "")
		f := l.finding("networkmanager", Note, "NetworkManager runs and is not told to leave vi0 alone")
		l.run(&f)
		l.shell(f.Undo)
		l.fix()
		if got := calls(); got != strings.Repeat("nmcli general reload\n", 3) {
			t.Errorf("called %q", got)
		}
		l.shell(f.Undo)
		l.put("/etc/NetworkManager/NetworkManager.conf", "[keyfile]\nunmanaged-devices=mac:00:00:5e:00:53:01,interface-name:vi*\n")
		l.clean()
	})
}

// A number of FRR's is found only where FRR runs.
func TestProtocol(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns)
		l.put("/run/frr/zserv.api", "")
		l.clean("protocol")
		l.in.Protocol = 186
		l.finding("protocol", Bad, "our routes are marked with its protocol number 186")
		l.in.Protocol = 68
		l.clean("protocol")
	})
}
