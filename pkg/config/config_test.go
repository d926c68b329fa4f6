package config

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var update = flag.Bool("update", false, "write the golden files anew")

// secrets makes a directory with the files that configurations under testdata
// name, and returns it. Git keeps neither modes nor secrets.
func secrets(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, f := range map[string]struct {
		content string
		mode    os.FileMode
	}{
		"good.secret":  {"hunter2\n", 0o640},
		"empty.secret": {"\n", 0o600},
		"long.secret":  {strings.Repeat("hunter2", 12) + "\n", 0o600},
		"open.secret":  {"hunter2", 0o644},
		"lines.secret": {"hunter2\nhunter3\n", 0o600},
		"huge.secret":  {strings.Repeat("hunter2\n", 1000), 0o600},
		"key17.secret": {"hunter2-hunter2-h\n", 0o600},
		"key20.secret": {"hunter2-hunter2-hunt\n", 0o600},
		"key21.secret": {"hunter2-hunter2-hunte\n", 0o600},
		"not.pem":      {"hunter2", 0o644},
		"ca.pem":       {roots(t), 0o644},
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(f.content), f.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, f.mode); err != nil { // whatever the umask is
			t.Fatal(err)
		}
	}
	return dir
}

// roots returns a certificate in PEM.
func roots(t *testing.T) string {
	t.Helper()
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
}

// parseFile parses with ${DIR} replaced by dir.
func parseFile(t *testing.T, path, dir string) (*Config, error) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data = bytes.ReplaceAll(data, []byte("${DIR}"), []byte(dir))
	return Parse(data, strings.TrimPrefix(filepath.Ext(path), "."), filepath.Base(path))
}

func glob(t *testing.T, patterns ...string) []string {
	t.Helper()
	var files []string
	for _, p := range patterns {
		found, err := filepath.Glob(p)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	return files
}

// TestBroken compares all that is said about each broken file.
func TestBroken(t *testing.T) {
	dir := secrets(t)
	files := glob(t, "testdata/bad/*.yaml", "testdata/bad/*.toml", "testdata/bad/*.json", "testdata/bad/*.ini")
	if len(files) < 40 {
		t.Fatalf("%d broken files, want at least 40", len(files))
	}
	for _, path := range files {
		t.Run(filepath.Base(path), func(t *testing.T) {
			cfg, err := parseFile(t, path, dir)
			if cfg != nil || err == nil {
				t.Fatalf("Parse = %v, %v, want an error", cfg, err)
			}
			if _, ok := errors.AsType[*Errors](err); !ok {
				t.Fatalf("error is a %T, want *Errors", err)
			}
			got := strings.ReplaceAll(err.Error(), dir, "${DIR}") + "\n"
			if strings.Contains(got, "hunter") {
				t.Errorf("a secret is in the message:\n%s", got)
			}
			golden := path + ".txt"
			if *update {
				if werr := os.WriteFile(golden, []byte(got), 0o644); werr != nil {
					t.Fatal(werr)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("messages (-want +got):\n%s", diff)
			}
		})
	}
}

// equalAddresses lets cmp compare the types of netip, which hide their fields.
func equalAddresses() cmp.Option {
	return cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}, netip.AddrPort{})
}

// TestFormats wants the same Config from the same file in each format.
func TestFormats(t *testing.T) {
	dir := secrets(t)
	for _, name := range []string{"full", "fabric"} {
		want, err := parseFile(t, "testdata/good/"+name+".yaml", dir)
		if err != nil {
			t.Fatal(err)
		}
		if string(want.Interfaces[0].Peers[0].Password) != "hunter2" {
			t.Errorf("%s: the password is not that of the file", name)
		}
		for _, format := range []string{".toml", ".json"} {
			got, err := parseFile(t, "testdata/good/"+name+format, dir)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, equalAddresses()); diff != "" {
				t.Errorf("%s%s (-yaml +it):\n%s", name, format, diff)
			}
		}
	}
}

// TestGood parses the files that are right.
func TestGood(t *testing.T) {
	dir := secrets(t)
	for _, path := range glob(t, "testdata/good/*.yaml") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			if _, err := parseFile(t, path, dir); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestExamples wants examples that work today.
func TestExamples(t *testing.T) {
	for _, path := range glob(t, "../../examples/*.yaml") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			if _, err := Load(path); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestSecretNeverPrints(t *testing.T) {
	type holder struct {
		Password Secret
		List     []Secret
	}
	h := holder{"hunter2", []Secret{"hunter2"}}
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%T", "%10.3s", "%!"} {
		fmt.Fprintf(&out, verb+" "+verb+"\n", h, h.Password)
	}
	text, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(text)
	slog.New(slog.NewTextHandler(&out, nil)).Info("text", "one", h.Password, "all", h)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("json", "one", h.Password, "all", h)
	if s := out.String(); strings.Contains(s, "hunter") || strings.Contains(s, "68756e746572") {
		t.Errorf("the secret is shown:\n%s", s)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{dir, filepath.Join(dir, "missing.yaml"), "testdata/bad/format.ini"} {
		cfg, err := Load(path)
		all, ok := errors.AsType[*Errors](err)
		if cfg != nil || !ok || len(all.List) == 0 || !strings.HasPrefix(err.Error(), path+": ") {
			t.Errorf("Load(%q) = %v, %v", path, cfg, err)
		}
	}
	if cfg, err := Load("../../examples/vipa.yaml"); err != nil || cfg.BGP.ASN != 65010 {
		t.Errorf("Load(vipa.yaml) = %v, %v", cfg, err)
	}
}
