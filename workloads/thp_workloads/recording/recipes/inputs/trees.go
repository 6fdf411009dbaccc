// trees DEPTH: a tree that is kept, others that die in four goroutines, and a map of slices of strings.
package main

import (
	"fmt"
	"os"
	"sort"
	"strconv"
	"strings"
)

type node struct {
	left, right *node
	key         int
	value       []byte
}

func grow(depth int) *node {
	if depth == 0 {
		return &node{value: make([]byte, 16)}
	}
	return &node{grow(depth - 1), grow(depth - 1), depth, make([]byte, depth)}
}

func (n *node) count() int {
	if n.left == nil {
		return 1
	}
	return 1 + n.left.count() + n.right.count()
}

func main() {
	depth, _ := strconv.Atoi(os.Args[1])
	kept, total := grow(depth), 0
	done := make(chan int)
	for g := 0; g < 4; g++ {
		go func() {
			sum := 0
			for i := 0; i < 48; i++ {
				sum += grow(depth - 3).count()
			}
			done <- sum
		}()
	}
	for g := 0; g < 4; g++ {
		total += <-done
	}
	table := map[string][]string{}
	for i := 0; i < 1<<depth/4; i++ {
		key := "k" + strconv.Itoa(i*7919%(1<<depth/8+1))
		table[key] = append(table[key], strings.Repeat("x", i%40))
	}
	keys := []string{}
	for key := range table {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	fmt.Println(total+kept.count(), len(keys))
}
