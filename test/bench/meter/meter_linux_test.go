// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package meter

import (
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain lets this binary be the process that is looked at: one that takes memory, and
// then works until its input is closed.
func TestMain(m *testing.M) {
	if os.Getenv("METER_WORKS") == "" {
		os.Exit(m.Run())
	}
	memory := make([]byte, workerBytes)
	for i := range memory {
		memory[i] = byte(i)
	}
	_, _ = os.Stdout.WriteString("!")
	closed := make(chan struct{})
	go func() {
		_, _ = os.Stdin.Read(make([]byte, 1))
		close(closed)
	}()
	for n := 0; ; n++ {
		select {
		case <-closed:
			os.Exit(0)
		default:
			memory[n%len(memory)]++
		}
	}
}

const workerBytes = 64 << 20

// TestLook compares what is seen of another process from outside with what the kernel
// says at its end.
func TestLook(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "METER_WORKS=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	resident, err := Resident(cmd.Process.Pid)
	// The race detector keeps several bytes beside each.
	if err != nil || resident < workerBytes || resident > 8*workerBytes {
		t.Errorf("%g bytes are resident, %v", resident, err)
	}
	peak, err := Peak(cmd.Process.Pid)
	if err != nil || peak < resident {
		t.Errorf("%g bytes at most, %v", peak, err)
	}
	<-time.After(300 * time.Millisecond) // it works meanwhile
	seen, err := CPU(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	used := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	whole := time.Duration(used.Utime.Nano() + used.Stime.Nano())
	if seen <= 0 || seen > whole || whole-seen > whole/2 {
		t.Errorf("it had used %v, and %v at its end", seen, whole)
	}
	if _, err := CPU(cmd.Process.Pid); err == nil {
		t.Error("a process that is gone has used something")
	}
	if _, err := Resident(cmd.Process.Pid); err == nil {
		t.Error("a process that is gone has memory")
	}
}

// tie is how far apart two readings are by which the clocks are tied.
const tie = time.Millisecond

// TestMonotonic compares the clock of this process with that of the machine.
func TestMonotonic(t *testing.T) {
	before := machineClock(t)
	ours := Monotonic()
	if after := machineClock(t); ours < before-tie || ours > after+tie {
		t.Errorf("%v is not between %v and %v", ours, before, after)
	}
	if Files() <= 0 || Kernel() == "?" {
		t.Errorf("%d files, kernel %s", Files(), Kernel())
	}
}

const metrics = `# TYPE goroutines gauge
goroutines 12
# TYPE done_total counter
done_total{controller="a",result="ok"} 3
done_total{controller="a",result="error"} 1
done_total{controller="b",result="ok"} 100
# TYPE wait_seconds histogram
wait_seconds_bucket{name="a",le="0.001"} 50
wait_seconds_bucket{name="a",le="0.01"} 90
wait_seconds_bucket{name="a",le="0.1"} 100
wait_seconds_bucket{name="a",le="+Inf"} 100
wait_seconds_sum{name="a"} 1
wait_seconds_count{name="a"} 100
`

func TestMetrics(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/metrics" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte(metrics))
	}))
	defer server.Close()
	if _, err := Scrape(t.Context(), server.URL); err == nil {
		t.Error("a page that is none was read")
	}
	m, err := Scrape(t.Context(), server.URL+"/metrics")
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Sum("goroutines", nil); got != 12 {
		t.Errorf("%g goroutines", got)
	}
	if got := m.Sum("done_total", map[string]string{"controller": "a"}); got != 4 {
		t.Errorf("%g done", got)
	}
	if got := m.Sum("nothing", nil); got != 0 {
		t.Errorf("%g of nothing", got)
	}
	if _, err := m.Histogram("wait_seconds", map[string]string{"name": "b"}); err == nil {
		t.Error("a histogram that is not there was read")
	}
	waits, err := m.Histogram("wait_seconds", map[string]string{"name": "a"})
	if err != nil {
		t.Fatal(err)
	}
	for percent, want := range map[float64]float64{25: 0.0005, 50: 0.001, 70: 0.0055, 95: 0.055, 100: 0.1} {
		if got := waits.Percentile(percent); math.Abs(got-want) > 1e-9 {
			t.Errorf("p%g is %g, not %g", percent, got, want)
		}
	}
	// The first fifty were there before: what is left waited longer.
	later := waits.Since(Buckets{Count: 50, Bounds: waits.Bounds, AtMost: []float64{50, 50, 50}})
	if got := later.Percentile(50); later.Count != 50 || math.Abs(got-0.006625) > 1e-9 {
		t.Errorf("p50 of %g is %g", later.Count, got)
	}
}

func machineClock(t *testing.T) time.Duration {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	return time.Duration(now.Nano())
}
