package bgp

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// eachField calls fn with every field of a struct by name, those of structs in it
// by names with dots, set to something else than the zero value.
func eachField[T any](t *testing.T, fn func(name string, changed T)) {
	t.Helper()
	var walk func(name string, of reflect.Type, at []int)
	walk = func(name string, of reflect.Type, at []int) {
		for i := range of.NumField() {
			f, index := of.Field(i), append(slices.Clone(at), i)
			if f.Type.Kind() == reflect.Struct && f.Type.PkgPath() == of.PkgPath() {
				walk(name+f.Name+".", f.Type, index)
				continue
			}
			var changed T
			set(t, reflect.ValueOf(&changed).Elem().FieldByIndex(index))
			fn(name+f.Name, changed)
		}
	}
	walk("", reflect.TypeFor[T](), nil)
}

// set gives a value that is not the zero one.
func set(t *testing.T, v reflect.Value) {
	t.Helper()
	switch x := v.Addr().Interface().(type) {
	case *netip.Addr:
		*x = netip.MustParseAddr("192.0.2.1")
		return
	case *netip.Prefix:
		*x = netip.MustParsePrefix("192.0.2.1/32")
		return
	case *time.Time:
		*x = time.Unix(1, 0).UTC()
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.String:
		v.SetString("x")
	case reflect.Int, reflect.Int64:
		v.SetInt(1)
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(1)
	case reflect.Float32:
		v.SetFloat(1)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		set(t, v.Index(0))
	case reflect.Array:
		set(t, v.Index(0))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		set(t, v.Elem())
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		set(t, key)
		set(t, value)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.Struct:
		set(t, v.Field(0))
	default:
		t.Fatalf("no value for %s", v.Type())
	}
}

// unseen are the fields whose change a comparison does not see.
func unseen[T any](t *testing.T, same func(a, b T) bool) []string {
	t.Helper()
	var list []string
	eachField(t, func(name string, changed T) {
		var zero T
		if same(zero, changed) || same(changed, zero) {
			list = append(list, name)
		}
		if !same(changed, changed) {
			t.Errorf("%s: not even the same as itself", name)
		}
	})
	return list
}

// A comparison that forgets a field keeps its changes from a process, from a peer
// or from the picture. Each names here what it leaves out, and why.
func TestComparisonsForgetNothing(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		got, want []string
	}{
		// Paths and Fence have messages of their own; a reason alone has no effect.
		"sameSessions": {unseen(t, sameSessions), []string{"Paths", "Fence", "DownReasons", "DownReason"}},
		"samePeer":     {unseen(t, samePeer), nil},
		// Whether a path is fenced is not for the wire: told.diff looks by itself.
		"samePath":       {unseen(t, samePath), []string{"Fenced"}},
		"sameAttributes": {unseen(t, func(a, b Attributes) bool { return sameAttributes(&a, &b) }), nil},
		"sameSeen":       {unseen(t, sameSeen), nil},
		// These are the manager's own, and the process's are constant.
		"sameState": {unseen(t, func(a, b SpeakerState) bool { return sameState(&a, &b) }), []string{"Since", "Restarts", "LastExit"}},
		"exportRules.key": {unseen(t, func(a, b Attributes) bool {
			rules := func(a Attributes) string { return exportRules{peers: []Peer{{Attributes: &a}}}.key() }
			return rules(a) == rules(b)
		}), nil},
	} {
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Errorf("%s does not see (-want +got):\n%s", name, diff)
		}
	}
}

// What is wanted reaches the process whole.
func TestWireForgetsNothing(t *testing.T) {
	t.Parallel()
	lost := map[string][]string{}
	eachField(t, func(name string, c SpeakerConfig) {
		if got := overWire(t, message{Sessions: newSessionsMessage(1, c)}); !same(t, c, got.Sessions) {
			lost["SpeakerConfig"] = append(lost["SpeakerConfig"], name)
		}
	})
	eachField(t, func(name string, p Peer) {
		c := SpeakerConfig{Peers: []Peer{p}}
		if got := overWire(t, message{Sessions: newSessionsMessage(1, c)}); !same(t, c, got.Sessions) {
			lost["Peer"] = append(lost["Peer"], name)
		}
	})
	eachField(t, func(name string, p Path) {
		if got := overWire(t, message{Paths: &pathsMessage{Set: []Path{p}}}); !reflect.DeepEqual(got.Paths.Set, []Path{p}) {
			lost["Path"] = append(lost["Path"], name)
		}
	})
	eachField(t, func(name string, s SpeakerState) {
		if got := overWire(t, message{Report: &reportMessage{State: s}}); !reflect.DeepEqual(got.Report.State, s) {
			lost["SpeakerState"] = append(lost["SpeakerState"], name)
		}
	})
	// Both have messages of their own.
	if diff := cmp.Diff(map[string][]string{"SpeakerConfig": {"Paths", "Fence"}}, lost); diff != "" {
		t.Errorf("does not arrive (-want +got):\n%s", diff)
	}
}

func overWire(t *testing.T, m message) message {
	t.Helper()
	body, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var out message
	if err := json.Unmarshal(body, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func same(t *testing.T, want SpeakerConfig, m *sessionsMessage) bool {
	t.Helper()
	got, err := m.config()
	if err != nil {
		t.Fatal(err)
	}
	if len(got.DownReasons) == 0 {
		got.DownReasons = nil
	}
	return reflect.DeepEqual(got, want)
}

// A withdraw takes away and adds nothing; of the rest it hands on only what ends
// something or has no effect by itself.
func TestWithdrawTakesWhat(t *testing.T) {
	t.Parallel()
	var taken []string
	eachField(t, func(name string, want SpeakerConfig) {
		if got := intersect(SpeakerConfig{}, want); !reflect.DeepEqual(got, intersect(SpeakerConfig{}, SpeakerConfig{})) {
			taken = append(taken, name)
		}
	})
	if diff := cmp.Diff([]string{"Fence", "Watch", "DownReasons", "DownReason"}, taken); diff != "" {
		t.Errorf("a withdraw changes (-want +got):\n%s", diff)
	}
}
