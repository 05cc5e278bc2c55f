// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"
	"k8s.io/client-go/rest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestFaultyWatchIsHonest: whoever resumes a watch as client-go does ends with
// the last version of every object, and never sees an object's versions turn
// back within one watch.
func TestFaultyWatchIsHonest(t *testing.T) {
	const objects, last = 5, 400
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, err := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		for v := from + 1; v <= last; v++ {
			if _, err := fmt.Fprintf(w, `{"type":"MODIFIED","object":{"metadata":{"name":"%d","resourceVersion":"%d"}}}`+"\n", v%objects, v); err != nil {
				return
			}
		}
	}))
	t.Cleanup(upstream.Close)
	proxy, err := StartFaultProxy(&rest.Config{Host: upstream.URL}, 1, Faults{
		Watch: WatchFaults{Cut: 0.05, Double: 0.2, Swap: 0.4, Late: 0.02, MaxLate: time.Millisecond},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

	newest, from := map[string]int{}, 0
	for range 10 * last {
		if len(newest) == objects && newest[strconv.Itoa(last%objects)] == last && from == last {
			break
		}
		from = watchFrom(t, client, proxy.server.URL, from, newest)
	}
	for v := last - objects + 1; v <= last; v++ {
		if got := newest[strconv.Itoa(v%objects)]; got != v {
			t.Errorf("object %d ends at %d, not at %d", v%objects, got, v)
		}
	}
	c := proxy.Counts()
	if c.WatchCuts == 0 || c.Doubled == 0 || c.Swapped == 0 || c.Late == 0 {
		t.Errorf("not every fault came: %v", c)
	}
}

// watchFrom reads one watch to its end, and returns the version of its last line.
func watchFrom(t *testing.T, client *http.Client, base string, from int, newest map[string]int) int {
	t.Helper()
	url := fmt.Sprintf("%s/apis/chatrun.dev/v1alpha1/chatruns?watch=true&resourceVersion=%d", base, from)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return from // cut before the first line
	}
	defer func() { _ = resp.Body.Close() }()
	here := map[string]int{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		var e struct {
			Object struct {
				Metadata struct{ Name, ResourceVersion string }
			}
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return from // half a line: the watch was cut in it
		}
		name := e.Object.Metadata.Name
		version, err := strconv.Atoi(e.Object.Metadata.ResourceVersion)
		if err != nil {
			t.Fatal(err)
		}
		if version < here[name] {
			t.Errorf("object %s: version %d follows %d", name, version, here[name])
		}
		here[name], newest[name], from = version, version, version
	}
	return from
}
