; guile lists.scm N: lists and a hash table of strings, some of which die.
(define n (string->number (cadr (command-line))))
(define table (make-hash-table))
(do ((i 0 (+ i 1))) ((= i n))
  (hash-set! table (modulo (* i 7919) (+ 1 (quotient n 2))) (list i (number->string i) (vector i i)))
  (if (= 0 (modulo i 3)) (hash-remove! table (modulo (* i 31) (+ 1 (quotient n 2))))))
(define kept (sort (hash-map->list (lambda (k v) (cadr v)) table) string<?))
(display (length kept))
