// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bytes"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"
)

// cost is what this process, in which the server and no reader is, has used.
type cost struct {
	cpu        time.Duration
	goroutines int
	// heap is what is alive, stacks what goroutines stand on; resident is what
	// the machine has given, and 0 where it does not say.
	heap, stacks, resident int
}

// measure collects all garbage, and says what is left.
func measure() cost {
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return cost{
		cpu: processTime(), goroutines: runtime.NumGoroutine(),
		heap: int(m.HeapAlloc), stacks: int(m.StackInuse), resident: resident(),
	}
}

func processTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func resident() int {
	raw, _ := os.ReadFile("/proc/self/statm") // Linux
	fields := bytes.Fields(raw)
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.Atoi(string(fields[1]))
	return pages * os.Getpagesize()
}

// memory is the heap and the stacks together.
func (c cost) memory() int { return c.heap + c.stacks }
