package doctor

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// managerWait bounds a command of a network manager.
const managerWait = 10 * time.Second

// networkdFile keeps systemd-networkd away from the virtual interface, and
// networkdConf from routes and rules of others (systemd.network(5),
// networkd.conf(5)).
const (
	networkdFile = "/etc/systemd/network/00-vipspeaker.network"
	networkdConf = "/etc/systemd/networkd.conf.d/50-vipspeaker.conf"
	managerConf  = "/etc/NetworkManager/conf.d/90-vipspeaker.conf"
)

// networkdDirs is where its files are; a file in an earlier one hides those of
// its name in later ones.
func networkdDirs(last string) []string {
	return []string{"/etc/systemd/" + last, "/run/systemd/" + last, "/usr/local/lib/systemd/" + last, "/usr/lib/systemd/" + last}
}

// lookNetworkdMatch looks whether systemd-networkd takes the virtual interface
// for its own.
func lookNetworkdMatch(e *exam) {
	if !e.exists("/run/systemd/netif") {
		return
	}
	for _, path := range e.configs(networkdDirs("network"), ".network") {
		f := readINI(path)
		if !f.matches(e.in.Device) {
			continue
		}
		if yes(f.get("Link", "Unmanaged")) || yes(f.get("Network", "KeepConfiguration")) {
			return
		}
		found := fmt.Sprintf("systemd-networkd runs, and %s is for %s too (Name=%s)", path, e.in.Device, f.get("Match", "Name"))
		if e.givenDevice() {
			e.find(&Finding{
				Subject: e.in.Device, Found: found,
				Command: "# write KeepConfiguration=yes below [Network] in " + path + ", and: networkctl reload",
			})
			return
		}
		text := fmt.Sprintf("[Match]\nName=%s %s.*\n\n[Link]\nUnmanaged=yes\n", e.in.Device, e.in.Device)
		e.find(e.dropIn(&Finding{
			Subject: e.in.Device, Found: found,
		}, networkdFile, text, "networkctl", "reload"))
		return
	}
}

// givenDevice tells whether somebody else makes the virtual interface and sets it
// up: if that is a network manager, it must not be told to leave it alone.
func (e *exam) givenDevice() bool { return e.in.DeviceKind == "existing" || e.in.Device == "lo" }

// lookNetworkdForeign looks whether systemd-networkd removes routes and rules of
// others when it starts or a link comes up.
func lookNetworkdForeign(e *exam) {
	if !e.exists("/run/systemd/netif") {
		return
	}
	keys := []string{"ManageForeignRoutes", "ManageForeignRoutingPolicyRules"}
	value := map[string]string{}
	files := []string{e.file("/etc/systemd/networkd.conf")}
	for _, path := range append(files, e.configs(networkdDirs("networkd.conf.d"), ".conf")...) {
		f := readINI(path)
		for _, key := range keys {
			if v := f.get("Network", key); v != "" {
				value[key] = v
			}
		}
	}
	var wrong []string
	for _, key := range keys {
		if v := value[key]; v == "" || yes(v) {
			wrong = append(wrong, key)
		}
	}
	if len(wrong) == 0 {
		return
	}
	text := "[Network]\n" + strings.Join(keys, "=no\n") + "=no\n"
	f := e.dropIn(&Finding{
		Subject: "systemd-networkd",
		Found:   "systemd-networkd runs, and " + strings.Join(wrong, " and ") + " are not off in its configuration",
	}, networkdConf, text)
	f.Command += "\nsystemctl restart systemd-networkd"
	e.find(f)
}

// lookNetworkManager looks whether NetworkManager knows that the virtual
// interface is not its own.
func lookNetworkManager(e *exam) {
	if !e.exists("/run/NetworkManager") || e.givenDevice() {
		return // of a given device it may be the one that makes it
	}
	files := []string{e.file("/etc/NetworkManager/NetworkManager.conf")}
	dirs := []string{"/etc/NetworkManager/conf.d", "/run/NetworkManager/conf.d", "/usr/lib/NetworkManager/conf.d"}
	for _, path := range append(files, e.configs(dirs, ".conf")...) {
		f := readINI(path)
		for _, word := range strings.FieldsFunc(f.get("keyfile", "unmanaged-devices"), func(r rune) bool { return strings.ContainsRune(",; ", r) }) {
			pattern, isName := strings.CutPrefix(word, "interface-name:")
			if ok, err := filepath.Match(strings.TrimPrefix(pattern, "="), e.in.Device); isName && err == nil && ok {
				return
			}
		}
	}
	text := fmt.Sprintf("[keyfile]\nunmanaged-devices=interface-name:%s;interface-name:%s.*\n", e.in.Device, e.in.Device)
	e.find(e.dropIn(&Finding{
		Subject: e.in.Device, Found: "NetworkManager runs and is not told to leave " + e.in.Device + " alone",
	}, managerConf, text, "nmcli", "general", "reload"))
}

// lookProtocol looks whether the number that marks our routes is one that FRR
// takes for its own.
func lookProtocol(e *exam) {
	adopted := []int{11, 186, 187, 188, 189, 190, 191, 192, 193, 194, 195, 196, 197, 198}
	if !slices.Contains(adopted, e.in.Protocol) || !e.exists("/run/frr/zserv.api") {
		return
	}
	e.find(&Finding{
		Subject: "FRR", Found: fmt.Sprintf("FRR runs, and our routes are marked with its protocol number %d", e.in.Protocol),
		Command: "# use a number that is not FRR's, such as 68",
	})
}

// dropIn makes a finding whose cure is a file, and a command after it.
func (e *exam) dropIn(f *Finding, path, text string, after ...string) *Finding {
	path = e.file(path)
	quoted := strings.ReplaceAll(text, "\n", `\n`)
	f.Command = fmt.Sprintf("mkdir -p %s && printf '%s' > %s", filepath.Dir(path), quoted, path)
	f.Undo = "rm " + path
	if len(after) > 0 {
		f.Command += "\n" + strings.Join(after, " ")
		f.Undo += "\n" + strings.Join(after, " ")
	}
	f.fix = func(ctx context.Context) ([]string, error) {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // everybody reads it
			return nil, fmt.Errorf("make the directory of %s: %w", path, err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil { //nolint:gosec // as above
			return nil, fmt.Errorf("write %s: %w", path, err)
		}
		did := []string{"wrote " + path}
		if len(after) == 0 {
			return append(did, "it takes effect when systemd-networkd starts again"), nil
		}
		ctx, cancel := context.WithTimeout(ctx, managerWait)
		defer cancel()
		if out, err := exec.CommandContext(ctx, after[0], after[1:]...).CombinedOutput(); err != nil { //nolint:gosec // named above
			return did, fmt.Errorf("%s: %w: %s", strings.Join(after, " "), err, bytes.TrimSpace(out))
		}
		return append(did, "ran "+strings.Join(after, " ")), nil
	}
	return f
}

// configs are the files of the directories in the order in which they count.
func (e *exam) configs(dirs []string, suffix string) []string {
	byName := map[string]string{}
	for _, dir := range slices.Backward(dirs) {
		files, err := filepath.Glob(e.file(dir) + "/*" + suffix)
		if err != nil {
			continue // no such pattern
		}
		for _, path := range files {
			byName[filepath.Base(path)] = path
		}
	}
	names := make([]string, 0, len(byName))
	for name := range byName {
		names = append(names, name)
	}
	slices.Sort(names)
	for i, name := range names {
		names[i] = byName[name]
	}
	return names
}

// ini is a file of sections; the last value of a key counts.
type ini map[string]string

func readINI(path string) ini {
	f := ini{}
	data, err := os.ReadFile(path) //nolint:gosec // a configuration file of the host
	if err != nil {
		return f // it is not there
	}
	section := ""
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		if strings.HasPrefix(line, "[") {
			section = strings.Trim(line, "[]")
			continue
		}
		if key, value, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, ";") {
			f[section+"."+strings.TrimSpace(key)] = strings.TrimSpace(value)
		}
	}
	return f
}

func (f ini) get(section, key string) string { return f[section+"."+key] }

// matches tells whether a .network file is for a virtual Ethernet device of the
// name (systemd.network(5), section [Match]).
func (f ini) matches(name string) bool {
	selects := false
	for path, value := range f {
		key, isMatch := strings.CutPrefix(path, "Match.")
		if !isMatch {
			continue
		}
		selects = true
		switch key {
		case "Name", "OriginalName":
			if !globs(value, name) {
				return false
			}
		case "Type":
			if !globs(value, "ether") {
				return false
			}
		case "Kind":
			if !globs(value, "dummy") {
				return false
			}
		default:
			return false // by an address, a path or a driver, which it does not have
		}
	}
	return selects
}

// globs tells whether one of the patterns matches; with "!" in front of the list
// whether none does.
func globs(list, name string) bool {
	list, inverted := strings.CutPrefix(list, "!")
	matched := slices.ContainsFunc(strings.Fields(list), func(pattern string) bool {
		ok, err := filepath.Match(pattern, name)
		return err == nil && ok
	})
	return matched != inverted
}

func yes(value string) bool {
	return slices.Contains([]string{"yes", "true", "1", "on"}, strings.ToLower(value))
}
